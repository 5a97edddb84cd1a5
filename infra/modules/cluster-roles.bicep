// The roles of the cluster's own identities. A new cluster has new identities, and Azure does not move
// a role assignment to another identity. So its name contains the identity's id, which Bicep allows in
// a name only as a parameter.
import { Token } from 'types.bicep'

param token Token
param registryName string
param nodesPrincipalId string
param clusterPrincipalId string

@description('Whether the cluster is in the private network.')
param joinsNetwork bool

var roles = loadJsonContent('../roles.json')

resource registry 'Microsoft.ContainerRegistry/registries@2025-04-01' existing = { name: registryName }
resource vnet 'Microsoft.Network/virtualNetworks@2025-05-01' existing = if (joinsNetwork) {
  name: 'vnet-${token}'
}

// Nodes may pull the workers' image but not push images.
resource pullRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, nodesPrincipalId, 'acrPull')
  scope: registry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.acrPull)
    principalId: nodesPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// The cluster joins its nodes and load balancers to the subnet.
resource networkRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (joinsNetwork) {
  name: guid(vnet.id, clusterPrincipalId, 'networkContributor')
  scope: vnet
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.networkContributor)
    principalId: clusterPrincipalId
    principalType: 'ServicePrincipal'
  }
}
