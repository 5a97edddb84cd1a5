// Two storage accounts: one is the Functions host's own, the other holds payloads and weights.
// Apart, so that no worker can touch the host's state, and a payload's retention not the host's blobs.
param location string
param tags object
param token string
param privateNetwork bool
param endpointSubnetId string
param blobZoneId string
param gatewayPrincipalId string
param workerPrincipalId string
param deployerPrincipalId string
param deployerPrincipalType string

var packages = 'packages'
var payloads = 'payloads'
var weights = 'weights'

var roles = loadJsonContent('../roles.json')

var account = {
  allowBlobPublicAccess: false
  allowSharedKeyAccess: false
  allowCrossTenantReplication: false
  defaultToOAuthAuthentication: true
  supportsHttpsTrafficOnly: true
}

resource host 'Microsoft.Storage/storageAccounts@2025-08-01' = {
  name: 'sthost${token}'
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  // The host's account stays public in a private network: Flex Consumption deploys through it.
  properties: union(account, {
    minimumTlsVersion: 'TLS1_2'
    networkAcls: { defaultAction: 'Allow', bypass: 'AzureServices' }
  })

  resource blobs 'blobServices' = {
    name: 'default'
    resource package 'containers' = { name: packages }
  }
}

resource payload 'Microsoft.Storage/storageAccounts@2025-08-01' = {
  name: 'stpay${token}'
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: union(account, {
    minimumTlsVersion: 'TLS1_2'
    // Callers use signed links to it; in a private network they come through the private endpoint.
    publicNetworkAccess: privateNetwork ? 'Disabled' : 'Enabled'
    networkAcls: { defaultAction: privateNetwork ? 'Deny' : 'Allow', bypass: 'AzureServices' }
  })

  resource blobs 'blobServices' = {
    name: 'default'
    properties: { deleteRetentionPolicy: { enabled: false } }
    resource payloadContainer 'containers' = { name: payloads }
    resource weightContainer 'containers' = { name: weights }
  }

  // The gateway's housekeeping deletes sooner; this is for what it missed. Days are the finest grain.
  resource lifecycle 'managementPolicies' = {
    name: 'default'
    properties: {
      policy: {
        rules: [
          for rule in [
            { prefix: 'inputs', days: 7 }
            { prefix: 'results', days: 7 }
            { prefix: 'outcomes', days: 7 }
            { prefix: 'progress', days: 7 }
            { prefix: 'uploads', days: 2 }
            { prefix: 'claims', days: 2 }
            { prefix: 'dead-letters', days: 30 }
          ]: {
            name: 'delete-${rule.prefix}'
            enabled: true
            type: 'Lifecycle'
            definition: {
              filters: { blobTypes: ['blockBlob'], prefixMatch: ['${payloads}/${rule.prefix}/'] }
              actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: rule.days } } }
            }
          }
        ]
      }
    }
  }
}

// The Functions host keeps leases, keys and, with durableBackend=storage, the histories there.
resource hostRoles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in ['storageBlobDataOwner', 'storageQueueDataContributor', 'storageTableDataContributor']: {
    name: guid(host.id, gatewayPrincipalId, role)
    scope: host
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles[role])
      principalId: gatewayPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

// azd writes the Function App's package.
resource deployerHostRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerPrincipalId)) {
  name: guid(host.id, deployerPrincipalId, 'storageBlobDataContributor')
  scope: host
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
    principalId: deployerPrincipalId
    principalType: deployerPrincipalType
  }
}

// Inputs, results, claims, uploads: both sides write and read them. Outcomes are the gateway's alone,
// and the role is for the whole container. The gateway deletes all of them.
resource payloadRoles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for principal in [gatewayPrincipalId, workerPrincipalId]: {
    name: guid(payload.id, payloads, principal)
    scope: payload::blobs::payloadContainer
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
      principalId: principal
      principalType: 'ServicePrincipal'
    }
  }
]

// Signed links need a user delegation key, which only the account can give.
resource delegatorRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(payload.id, gatewayPrincipalId, 'storageBlobDelegator')
  scope: payload
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDelegator)
    principalId: gatewayPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// Workers only read weights: a worker that was taken over cannot change what the others load.
resource weightReader 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(payload.id, weights, workerPrincipalId)
  scope: payload::blobs::weightContainer
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataReader)
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// infra/scripts/upload-weights.sh runs as who deploys.
resource weightWriter 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerPrincipalId)) {
  name: guid(payload.id, weights, deployerPrincipalId)
  scope: payload::blobs::weightContainer
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
    principalId: deployerPrincipalId
    principalType: deployerPrincipalType
  }
}

module endpoint 'endpoint.bicep' = if (privateNetwork) {
  params: {
    location: location
    tags: tags
    name: 'pe-payload-${token}'
    subnetId: endpointSubnetId
    targetId: payload.id
    groupId: 'blob'
    zoneId: blobZoneId
  }
}

output hostName string = host.name
output packageContainer string = packages
output payloadName string = payload.name
output payloadEndpoint string = payload.properties.primaryEndpoints.blob
