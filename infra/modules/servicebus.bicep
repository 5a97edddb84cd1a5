// The namespace and two queues per model, from infra/catalogue.json, which is generated from the
// model catalogue. A private network needs Premium, because only Premium has private endpoints.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param privateNetwork bool

@description('Standard, or Premium without the limit of operations. A private network always needs Premium.')
@allowed(['Standard', 'Premium'])
param sku string

@description('Messaging units of Premium.')
@allowed([1, 2, 4, 8, 16])
param units int

param endpointSubnetId string
param zoneId string
param gatewayIdentityName string
param gatewayPrincipalId string
param workerIdentityName string
param workerPrincipalId string
param kedaIdentityName string
param kedaPrincipalId string

var roles = loadJsonContent('../roles.json')
var isPremium = privateNetwork || sku == 'Premium'
var queues = loadJsonContent('../catalogue.json').queues

resource namespace 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: 'sb-${token}'
  location: location
  tags: tags
  sku: isPremium ? { name: 'Premium', tier: 'Premium', capacity: units } : { name: 'Standard', tier: 'Standard' }
  properties: {
    // Connection strings are turned off: clients sign in with identities.
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
// Counting uses the management API, which needs the access right Manage. Data Owner is the only
// built-in role with that right. It is assigned on the queues, not on the namespace.
resource gatewayRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (each, index) in queues: {
    name: guid(queue[index].id, gatewayIdentityName, 'serviceBusDataOwner')
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
    name: guid(queue[index].id, workerIdentityName, 'serviceBusDataReceiver')
    scope: queue[index]
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.serviceBusDataReceiver)
      principalId: workerPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

// Producers may want replies in their own queue. Create it elsewhere, or by REPLY_QUEUES.
@description('Queues to which workers may send the replies of internal producers.')
param replyQueues string[]

resource replies 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [
  for name in replyQueues: {
    parent: namespace
    name: name
    properties: { lockDuration: 'PT1M', maxDeliveryCount: 10 }
  }
]

resource replySender 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (name, index) in replyQueues: {
    name: guid(replies[index].id, workerIdentityName, 'serviceBusDataSender')
    scope: replies[index]
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.serviceBusDataSender)
      principalId: workerPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

// KEDA also reads ActiveMessageCount from the management API. It is an open question upstream whether
// a narrower custom role is enough. So KEDA has its own identity, with this role on the queues only.
resource kedaRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (each, index) in queues: {
    name: guid(queue[index].id, kedaIdentityName, 'serviceBusDataOwner')
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
