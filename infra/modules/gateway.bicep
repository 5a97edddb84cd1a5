// The Function App on Flex Consumption. docs/reference/settings.md describes the settings. A test compares them
// with those that the code reads.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param name string
param corsOrigins string
param identityId string
param identityClientId string
param hostStorageName string
param packageContainer string
param payloadEndpoint string
param servicebusHost string
param vaultUri string
param insightsConnectionString string

@description('The Durable Task Scheduler\'s endpoint. Empty: histories are kept in the host\'s storage.')
param durableEndpoint string
param alwaysReadyCount int
param zoneRedundant bool
param pythonVersion string

@description('RollingUpdate or Recreate. It takes effect with the update after the one that changes it.')
param updateStrategy string

@description('Further settings: NAME=value, separated by semicolons. They replace those of this file.')
param otherSettings string
param instanceMemoryMB int
param maximumInstanceCount int
param httpConcurrency int
param traceSampling string
param retentionHours int
param subnetId string

// The platform's scaling reads the backend from host.json and ignores the settings. So with histories
// in storage it would not start an instance for orchestrations: keep at least one always ready.
// A plan that spreads over zones needs two of each group.
var leastCount = zoneRedundant ? max(2, alwaysReadyCount) : alwaysReadyCount
var durableCount = empty(durableEndpoint) ? max(1, leastCount) : leastCount
var warm = [
  { name: 'http', instanceCount: leastCount }
  { name: 'durable', instanceCount: durableCount }
]

// The host refuses larger bodies. For each byte of a body it needs up to four bytes of memory, and
// 790 MB are for everything else (docs/explanation/capacity.md).
var bodyLimitBytes = loadJsonContent('../catalogue.json').bodyLimitBytes
var fittingConcurrency = max(1, (instanceMemoryMB - 790) * 1048576 / (4 * bodyLimitBytes))

var common = {
  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(bodyLimitBytes)
  // The worker then proxies HTTP to the app. Without it, the host answers no request.
  PYTHON_ENABLE_INIT_INDEXING: '1'
  // Otherwise the host answers `/` with a page of its own.
  AzureWebJobsDisableHomepage: 'true'
  AzureWebJobsStorage__accountName: hostStorage.name
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  // The app's own spans, with its identity. The worker follows the gateway's sampling decision.
  OTEL_TRACES_EXPORTER: 'azure_monitor_opentelemetry_exporter'
  OTEL_TRACES_SAMPLER: 'parentbased_traceidratio'
  OTEL_TRACES_SAMPLER_ARG: traceSampling
  APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL: 'true'
  // The identity that azure-identity's default credential uses.
  AZURE_CLIENT_ID: identityClientId
  SERVICE_BUS__fullyQualifiedNamespace: servicebusHost
  SERVICE_BUS__credential: 'managedidentity'
  SERVICE_BUS__clientId: identityClientId
  PAYLOAD_STORAGE__blobServiceUri: payloadEndpoint
  GATEWAY_BASE_URL: 'https://${app.properties.defaultHostName}'
  CORS_ORIGINS: corsOrigins
  RETENTION_HOURS: string(retentionHours)
  REPLY_TOKEN_KEYS: '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/reply-token-keys/)'
  WEBHOOK_SECRETS: '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/webhook-secrets/)'
  API_KEYS: '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/api-keys/)'
}

// host.json names the scheduler and this setting.
var scheduler = {
  DURABLE_TASK_SCHEDULER_CONNECTION_STRING: 'Endpoint=${durableEndpoint};Authentication=ManagedIdentity;ClientID=${identityClientId}'
}
var histories = {
  AzureFunctionsJobHost__extensions__durableTask__storageProvider__type: 'AzureStorage'
  AzureFunctionsJobHost__extensions__durableTask__storageProvider__connectionStringName: 'AzureWebJobsStorage'
  AzureFunctionsJobHost__extensions__durableTask__storageProvider__maxQueuePollingInterval: '00:00:00.200'
  // How long the messages of a dead instance stay invisible to the others. The default is 5 minutes,
  // the minimum one minute.
  AzureFunctionsJobHost__extensions__durableTask__storageProvider__controlQueueVisibilityTimeout: '00:01:00'
  AzureFunctionsJobHost__extensions__durableTask__storageProvider__workItemQueueVisibilityTimeout: '00:01:00'
}

var assignments = filter(split(otherSettings, ';'), each => contains(each, '='))
var others = toObject(assignments, each => trim(split(each, '=')[0]), each => join(skip(split(each, '='), 1), '='))

resource hostStorage 'Microsoft.Storage/storageAccounts@2025-08-01' existing = { name: hostStorageName }

// The types of this API version do not have the property, but the API takes it:
// https://learn.microsoft.com/azure/azure-functions/flex-consumption-site-updates
var updates = any({ siteUpdateStrategy: { type: updateStrategy } })

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: 'plan-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true, zoneRedundant: zoneRedundant }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'gateway' })
  kind: 'functionapp,linux'
  identity: { type: 'UserAssigned', userAssignedIdentities: { '${identityId}': {} } }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    functionAppConfig: union(updates, {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${hostStorage.properties.primaryEndpoints.blob}${packageContainer}'
          authentication: { type: 'UserAssignedIdentity', userAssignedIdentityResourceId: identityId }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        // A waiting request takes a slot for up to 200 s, but almost no processor time.
        triggers: { http: { perInstanceConcurrency: min(httpConcurrency, fittingConcurrency) } }
        alwaysReady: filter(warm, each => each.instanceCount > 0)
      }
      runtime: { name: 'python', version: pythonVersion }
    })
    // Flex Consumption refuses most other properties, such as ftpsState (ARM error 51021).
    siteConfig: { minTlsVersion: '1.2' }
  }

  resource ftp 'basicPublishingCredentialsPolicies' = { name: 'ftp', properties: { allow: false } }
  resource scm 'basicPublishingCredentialsPolicies' = { name: 'scm', properties: { allow: false } }

  resource settings 'config' = {
    name: 'appsettings'
    properties: union(common, empty(durableEndpoint) ? histories : scheduler, others)
  }
}

output name string = app.name
output host string = app.properties.defaultHostName
output baseUrl string = 'https://${app.properties.defaultHostName}'
