// Durable Task Scheduler: the managed store of the orchestrations, and the fastest backend.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token

@description('Consumption bills each action and dispatches up to 500 a second. Dedicated: 2,000 a unit.')
@allowed(['Consumption', 'Dedicated'])
param sku string

@description('Units of the Dedicated SKU.')
param capacity int

param retentionHours int

param gatewayIdentityName string
param gatewayPrincipalId string
param deployerPrincipalId string
param deployerPrincipalType string

// The gateway purges histories sooner. This deletes what it missed, at most as late as the plan permits.
var deadlineDays = (loadJsonContent('../catalogue.json').longestDeadlineSeconds + 86399) / 86400
var retentionDays = min((retentionHours + 23) / 24 + deadlineDays + 1, sku == 'Dedicated' ? 90 : 30)

var roles = loadJsonContent('../roles.json')

resource scheduler 'Microsoft.DurableTask/schedulers@2025-11-01' = {
  name: 'dts-${token}'
  location: location
  tags: tags
  properties: {
    sku: sku == 'Dedicated' ? { name: sku, capacity: capacity } : { name: sku }
    // An empty list would refuse every address. Access is controlled by identities.
    ipAllowlist: ['0.0.0.0/0']
  }

  resource hub 'taskHubs' = { name: 'loosely' }
  resource retention 'retentionPolicies' = {
    name: 'default'
    properties: { retentionPolicies: [{ retentionPeriodInDays: retentionDays }] }
  }
}

// The Durable extension reads and writes orchestrations in this one task hub.
resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(scheduler::hub.id, gatewayIdentityName, 'durableTaskDataContributor')
  scope: scheduler::hub
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.durableTaskDataContributor
    )
    principalId: gatewayPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// The dashboard shows operators the orchestrations: https://dashboard.durabletask.io. Its documentation asks
// for this role. The role to read data would suffice to look, if the dashboard accepts it.
resource operatorRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerPrincipalId)) {
  name: guid(scheduler::hub.id, deployerPrincipalId, 'durableTaskDataContributor')
  scope: scheduler::hub
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.durableTaskDataContributor
    )
    principalId: deployerPrincipalId
    principalType: deployerPrincipalType
  }
}

output endpoint string = scheduler.properties.endpoint
