// The workers' images. A private network needs Premium: the other tiers lack private endpoints.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token

@minLength(5)
@maxLength(50)
param name string
param privateNetwork bool
param endpointSubnetId string
param zoneId string
param deployerPrincipalId string
param deployerPrincipalType string

var roles = loadJsonContent('../roles.json')

resource registry 'Microsoft.ContainerRegistry/registries@2025-04-01' = {
  name: name
  location: location
  tags: tags
  sku: { name: privateNetwork ? 'Premium' : 'Basic' }
  properties: {
    adminUserEnabled: false
    anonymousPullEnabled: false
    publicNetworkAccess: privateNetwork ? 'Disabled' : 'Enabled'
    networkRuleBypassOptions: 'AzureServices'
  }
}

// infra/scripts/deploy-worker.sh builds in the registry and pushes with the identity that deploys.
resource pushRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerPrincipalId)) {
  name: guid(registry.id, deployerPrincipalId, 'acrPush')
  scope: registry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.acrPush)
    principalId: deployerPrincipalId
    principalType: deployerPrincipalType
  }
}

module endpoint 'endpoint.bicep' = if (privateNetwork) {
  params: {
    location: location
    tags: tags
    name: 'pe-registry-${token}'
    subnetId: endpointSubnetId
    targetId: registry.id
    groupId: 'registry'
    zoneId: zoneId
  }
}

output loginServer string = registry.properties.loginServer
