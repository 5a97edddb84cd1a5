// The optional private network: one VNet, one subnet per kind of resource, and the DNS zones of the
// private endpoints. Without it every output is empty, and the services are public without keys.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param privateNetwork bool

// Gateway, container apps and nodes reach Azure's public services and, for webhooks, the internet. Newer API
// versions of the network take false if nothing is said.
var defaultOutboundAccess = true

var zones = [
  'privatelink.blob.${environment().suffixes.storage}'
  'privatelink.servicebus.windows.net'
  'privatelink.vaultcore.azure.net'
  'privatelink.azurecr.io'
]

resource vnet 'Microsoft.Network/virtualNetworks@2025-05-01' = if (privateNetwork) {
  name: 'vnet-${token}'
  location: location
  tags: tags
  properties: {
    addressSpace: { addressPrefixes: ['10.40.0.0/16'] }
    subnets: [
      {
        name: 'functions'
        properties: {
          addressPrefix: '10.40.0.0/24'
          defaultOutboundAccess: defaultOutboundAccess
          // Flex Consumption runs on the Container Apps platform and needs its delegation.
          delegations: [{ name: 'functions', properties: { serviceName: 'Microsoft.App/environments' } }]
        }
      }
      {
        name: 'apps'
        properties: {
          addressPrefix: '10.40.2.0/23'
          defaultOutboundAccess: defaultOutboundAccess
          delegations: [{ name: 'apps', properties: { serviceName: 'Microsoft.App/environments' } }]
        }
      }
      { name: 'endpoints', properties: { addressPrefix: '10.40.4.0/24', defaultOutboundAccess: false } }
      {
        name: 'cluster'
        properties: { addressPrefix: '10.40.8.0/21', defaultOutboundAccess: defaultOutboundAccess }
      }
    ]
  }

  resource functions 'subnets' existing = { name: 'functions' }
  resource apps 'subnets' existing = { name: 'apps' }
  resource endpoints 'subnets' existing = { name: 'endpoints' }
  resource cluster 'subnets' existing = { name: 'cluster' }
}

resource zone 'Microsoft.Network/privateDnsZones@2020-06-01' = [
  for name in zones: if (privateNetwork) {
    name: name
    location: 'global'
    tags: tags
  }
]

resource link 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = [
  for (name, index) in zones: if (privateNetwork) {
    parent: zone[index]
    name: 'loosely'
    location: 'global'
    tags: tags
    properties: { registrationEnabled: false, virtualNetwork: { id: vnet.id } }
  }
]

output functionsSubnetId string = privateNetwork ? vnet::functions.id : ''
output appsSubnetId string = privateNetwork ? vnet::apps.id : ''
output endpointSubnetId string = privateNetwork ? vnet::endpoints.id : ''
output clusterSubnetId string = privateNetwork ? vnet::cluster.id : ''
output blobZoneId string = privateNetwork ? zone[0].id : ''
output servicebusZoneId string = privateNetwork ? zone[1].id : ''
output vaultZoneId string = privateNetwork ? zone[2].id : ''
output registryZoneId string = privateNetwork ? zone[3].id : ''
