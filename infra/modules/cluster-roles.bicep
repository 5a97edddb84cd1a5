// What the cluster's own identities may do. They come and go with the cluster, and Azure gives no role
// on from one to the next, so its name has the identity's id: which a name takes as a parameter alone.
param token string
param registryName string
param nodesPrincipalId string
param clusterPrincipalId string

@description('Whether the cluster is in a network of ours.')
param joinsNetwork bool

var roles = loadJsonContent('../roles.json')

resource registry 'Microsoft.ContainerRegistry/registries@2025-04-01' existing = { name: registryName }
resource vnet 'Microsoft.Network/virtualNetworks@2025-05-01' existing = if (joinsNetwork) {
  name: 'vnet-${token}'
}

// Nodes pull the workers' image, and may push none.
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
