// The namespace and one pair of queues a model, as the catalogue says (infra/catalogue.json is made
// from it). Standard does unless the network is private: only Premium has private endpoints.
param location string
param tags object
param token string
param privateNetwork bool
param endpointSubnetId string
param zoneId string
param gatewayPrincipalId string
param workerPrincipalId string
param kedaPrincipalId string

var roles = loadJsonContent('../roles.json')
var queues = loadJsonContent('../catalogue.json').queues

resource namespace 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: 'sb-${token}'
  location: location
  tags: tags
  sku: privateNetwork ? { name: 'Premium', tier: 'Premium', capacity: 1 } : { name: 'Standard', tier: 'Standard' }
  properties: {
    // Connection strings do not work: identities only.
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
    publicNetworkAccess: privateNetwork ? 'Disabled' : 'Enabled'
  }
}

resource queue 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [
  for each in queues: {
    parent: namespace
    name: each.name
    properties: {
      lockDuration: each.lockDuration
      maxDeliveryCount: each.maxDeliveryCount
      defaultMessageTimeToLive: each.defaultMessageTimeToLive
      deadLetteringOnMessageExpiration: each.deadLetteringOnMessageExpiration
      requiresDuplicateDetection: true
      duplicateDetectionHistoryTimeWindow: each.duplicateDetectionHistoryTimeWindow
      maxSizeInMegabytes: each.maxSizeInMegabytes
    }
  }
]

// The gateway sends jobs, receives dead letters, and counts the queues for waits and positions.
// Counting goes over the management API, which wants Manage: of the built-in roles only Data Owner
// has it. It is given on the queues, not on the namespace.
resource gatewayRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (each, index) in queues: {
    name: guid(queue[index].id, gatewayPrincipalId, 'serviceBusDataOwner')
    scope: queue[index]
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.serviceBusDataOwner)
      principalId: gatewayPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

// Workers receive, peek, renew and settle.
resource workerRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (each, index) in queues: {
    name: guid(queue[index].id, workerPrincipalId, 'serviceBusDataReceiver')
    scope: queue[index]
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.serviceBusDataReceiver)
      principalId: workerPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

// Producers may want replies in a queue of their own: make it outside, or here in `replyQueues`.
@description('Queues that workers may send replies of internal producers to.')
param replyQueues array = []

resource replies 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [
  for name in replyQueues: {
    parent: namespace
    name: name
    properties: { lockDuration: 'PT1M', maxDeliveryCount: 10 }
  }
]

resource replySender 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (name, index) in replyQueues: {
    name: guid(replies[index].id, workerPrincipalId, 'serviceBusDataSender')
    scope: replies[index]
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.serviceBusDataSender)
      principalId: workerPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

// KEDA reads ActiveMessageCount from the management API, too. Whether a narrower custom role does is
// an open question upstream, so it has an identity of its own and this role on the queues alone.
resource kedaRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (each, index) in queues: {
    name: guid(queue[index].id, kedaPrincipalId, 'serviceBusDataOwner')
    scope: queue[index]
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.serviceBusDataOwner)
      principalId: kedaPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

module endpoint 'endpoint.bicep' = if (privateNetwork) {
  params: {
    location: location
    tags: tags
    name: 'pe-servicebus-${token}'
    subnetId: endpointSubnetId
    targetId: namespace.id
    groupId: 'namespace'
    zoneId: zoneId
  }
}

output id string = namespace.id
output name string = namespace.name
output host string = '${namespace.name}.servicebus.windows.net'
