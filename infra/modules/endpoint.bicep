// A private endpoint for one service, and its name in the private DNS zone.
import { Tags } from 'types.bicep'

param location string
param tags Tags
param name string
param subnetId string

@description('Resource id of the service.')
param targetId string

@description('The sub-resource of the service: blob, namespace, registry or vault.')
param groupId string
param zoneId string

resource endpoint 'Microsoft.Network/privateEndpoints@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    subnet: { id: subnetId }
    privateLinkServiceConnections: [
      { name: groupId, properties: { privateLinkServiceId: targetId, groupIds: [groupId] } }
    ]
  }

  resource zone 'privateDnsZoneGroups' = {
    name: 'default'
    properties: { privateDnsZoneConfigs: [{ name: groupId, properties: { privateDnsZoneId: zoneId } }] }
  }
}
