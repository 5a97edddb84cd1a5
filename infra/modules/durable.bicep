// Durable Task Scheduler: the managed store of the orchestrations, and the fastest backend.
param location string
param tags object
param token string
param gatewayPrincipalId string

var roles = loadJsonContent('../roles.json')

resource scheduler 'Microsoft.DurableTask/schedulers@2025-11-01' = {
  name: 'dts-${token}'
  location: location
  tags: tags
  properties: {
    sku: { name: 'Consumption' }
    // An empty list would refuse every address. Access is controlled by identities.
    ipAllowlist: ['0.0.0.0/0']
  }

  resource hub 'taskHubs' = { name: 'loosely' }
}

// The Durable extension reads and writes orchestrations in this one task hub.
resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(scheduler::hub.id, gatewayPrincipalId, 'durableTaskDataContributor')
  scope: scheduler::hub
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.durableTaskDataContributor)
    principalId: gatewayPrincipalId
    principalType: 'ServicePrincipal'
  }
}

output endpoint string = scheduler.properties.endpoint
