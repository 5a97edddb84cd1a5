// Two storage accounts: one for the Functions host, one for payloads and weights. They are separate so
// that workers cannot touch the host's state and the retention of payloads does not apply to it.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param privateNetwork bool
param endpointSubnetId string
param blobZoneId string

@description('Origins of the gateway\'s own pages.')
param pageOrigins string[]

@description('Origins of other pages that may use the API, separated by commas, or *.')
param corsOrigins string
param retentionHours int

@description('Keep copies in three zones instead of one.')
param zoneRedundant bool
param hostName string
param gatewayIdentityName string
param gatewayPrincipalId string
param workerIdentityName string
param workerPrincipalId string
param deployerPrincipalId string
param deployerPrincipalType string

var packages = 'packages'
var payloads = 'payloads'
var weights = 'weights'

// Days after which the lifecycle rules delete. They must not delete before the gateway's housekeeping, which
// keeps payloads for RETENTION_HOURS and two deadlines: a redriven job has a deadline of its own. The first
// deadline of a line is that of its batch.
var deadlineDays = (loadJsonContent('../catalogue.json').longestDeadlineSeconds + 86399) / 86400
var batchDays = (loadJsonContent('../catalogue.json').longestBatchSeconds + 86399) / 86400
var firstDays = max(deadlineDays, batchDays)
var retentionDays = (retentionHours + 23) / 24
var payloadDays = retentionDays + firstDays + deadlineDays + 1

var otherOrigins = filter(split(replace(corsOrigins, ' ', ''), ','), each => !empty(each))

var roles = loadJsonContent('../roles.json')

var storageSku = { name: zoneRedundant ? 'Standard_ZRS' : 'Standard_LRS' }
var account = {
  allowBlobPublicAccess: false
  allowSharedKeyAccess: false
  allowCrossTenantReplication: false
  defaultToOAuthAuthentication: true
  supportsHttpsTrafficOnly: true
}

resource host 'Microsoft.Storage/storageAccounts@2025-08-01' = {
  name: hostName
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: storageSku
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
  sku: storageSku
  properties: union(account, {
    minimumTlsVersion: 'TLS1_2'
    // Callers use signed links to it. In a private network they use the private endpoint.
    publicNetworkAccess: privateNetwork ? 'Disabled' : 'Enabled'
    networkAcls: { defaultAction: privateNetwork ? 'Deny' : 'Allow', bypass: 'AzureServices' }
  })

  resource blobs 'blobServices' = {
    name: 'default'
    properties: {
      deleteRetentionPolicy: { enabled: false }
      cors: {
        // Pages send uploads to signed links, and read large results from them. Only a link permits that;
        // these rules let browsers pass it on.
        corsRules: [
          {
            allowedOrigins: contains(otherOrigins, '*') ? ['*'] : union(pageOrigins, otherOrigins)
            allowedMethods: ['GET', 'HEAD', 'PUT']
            allowedHeaders: ['*']
            exposedHeaders: ['*']
            maxAgeInSeconds: 600
          }
        ]
      }
    }
    resource payloadContainer 'containers' = { name: payloads }
    resource weightContainer 'containers' = { name: weights }
  }

  // The gateway's housekeeping deletes sooner. These rules delete what it missed. The unit is days.
  resource lifecycle 'managementPolicies' = {
    name: 'default'
    properties: {
      policy: {
        rules: [
          for rule in [
            { prefix: 'inputs', days: payloadDays }
            { prefix: 'results', days: payloadDays }
            { prefix: 'outcomes', days: payloadDays }
            { prefix: 'progress', days: payloadDays }
            { prefix: 'deliveries', days: payloadDays }
            { prefix: 'children', days: payloadDays }
            { prefix: 'streams', days: payloadDays }
            { prefix: 'ends', days: 1 }
            { prefix: 'stops', days: 1 }
            { prefix: 'heartbeats', days: 1 }
            { prefix: 'sums', days: 1 }
            { prefix: 'usage', days: 2 }
            { prefix: 'places', days: firstDays + 1 }
            { prefix: 'shares', days: firstDays + 1 }
            { prefix: 'uploads', days: firstDays + 1 }
            { prefix: 'claims', days: 2 }
            { prefix: 'dead-letters', days: retentionDays + 1 }
            { prefix: 'files', days: retentionDays + 1 }
            { prefix: 'batches', days: retentionDays + batchDays + 1 }
            { prefix: 'batches-of', days: retentionDays + batchDays + 1 }
          ]: {
            name: 'delete-${rule.prefix}'
            enabled: true
            type: 'Lifecycle'
            definition: {
              filters: { blobTypes: ['blockBlob', 'appendBlob'], prefixMatch: ['${payloads}/${rule.prefix}/'] }
              actions: {
                baseBlob: { delete: { daysAfterModificationGreaterThan: rule.days } }
                // A blob with snapshots is not deleted, and an upload link permits snapshots.
                snapshot: { delete: { daysAfterCreationGreaterThan: rule.days } }
              }
            }
          }
        ]
      }
    }
  }
}

// The Functions host keeps leases and keys there, and the histories if durableBackend is storage.
resource hostRoles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in ['storageBlobDataOwner', 'storageQueueDataContributor', 'storageTableDataContributor']: {
    name: guid(host.id, gatewayIdentityName, role)
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
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.storageBlobDataContributor
    )
    principalId: deployerPrincipalId
    principalType: deployerPrincipalType
  }
}

// Gateway and workers read and write inputs, results, uploads and idempotency keys, and workers write
// heartbeats. Only the gateway writes outcomes, the log of ends and minute sums, although the role is on the whole container. The gateway deletes all of them.
resource payloadRoles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for identity in [
    { name: gatewayIdentityName, principalId: gatewayPrincipalId }
    { name: workerIdentityName, principalId: workerPrincipalId }
  ]: {
    name: guid(payload.id, payloads, identity.name)
    scope: payload::blobs::payloadContainer
    properties: {
      roleDefinitionId: subscriptionResourceId(
        'Microsoft.Authorization/roleDefinitions',
        roles.storageBlobDataContributor
      )
      principalId: identity.principalId
      principalType: 'ServicePrincipal'
    }
  }
]

// Signed links need a user delegation key, which only a role on the account allows.
resource delegatorRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(payload.id, gatewayIdentityName, 'storageBlobDelegator')
  scope: payload
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDelegator)
    principalId: gatewayPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// Workers may only read weights: a compromised worker cannot change what the others load.
resource weightReader 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(payload.id, weights, workerIdentityName)
  scope: payload::blobs::weightContainer
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataReader)
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// infra/scripts/upload-weights.sh runs with the identity that deploys.
resource weightWriter 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerPrincipalId)) {
  name: guid(payload.id, weights, deployerPrincipalId)
  scope: payload::blobs::weightContainer
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.storageBlobDataContributor
    )
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

output packageContainer string = packages
output hostId string = host.id
output payloadId string = payload.id
output payloadName string = payload.name
output payloadEndpoint string = payload.properties.primaryEndpoints.blob
