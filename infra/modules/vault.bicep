// The only secrets: the reply tokens' keys, the webhooks' secrets, and the callers' key entries.
// infra/scripts/keys.sh writes them. The templates and their outputs never contain a secret.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param privateNetwork bool
param endpointSubnetId string
param zoneId string
param gatewayIdentityName string
param gatewayPrincipalId string
param deployerPrincipalId string
param deployerPrincipalType string

var roles = loadJsonContent('../roles.json')

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' = {
  name: 'kv-${token}'
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: { family: 'A', name: 'standard' }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 7
    enablePurgeProtection: true
    publicNetworkAccess: privateNetwork ? 'Disabled' : 'Enabled'
    networkAcls: { defaultAction: privateNetwork ? 'Deny' : 'Allow', bypass: 'AzureServices' }
  }
}

// The gateway reads all secrets through its settings. Workers read none.
resource gatewayRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, gatewayIdentityName, 'keyVaultSecretsUser')
  scope: vault
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsUser)
    principalId: gatewayPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// The identity that deploys writes and rotates the secrets.
resource deployerRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerPrincipalId)) {
  name: guid(vault.id, deployerPrincipalId, 'keyVaultSecretsOfficer')
  scope: vault
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsOfficer)
    principalId: deployerPrincipalId
    principalType: deployerPrincipalType
  }
}

module endpoint 'endpoint.bicep' = if (privateNetwork) {
  params: {
    location: location
    tags: tags
    name: 'pe-vault-${token}'
    subnetId: endpointSubnetId
    targetId: vault.id
    groupId: 'vault'
    zoneId: zoneId
  }
}

output id string = vault.id
output name string = vault.name
output uri string = vault.properties.vaultUri
