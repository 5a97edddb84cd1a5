// Everything that Loosely needs in one subscription: one resource group and what is in it.
// `azd up` runs this. infra/README.md says what each part is for and what it costs.
targetScope = 'subscription'

@description('Name of the azd environment. It is part of the resource group\'s name and of all tags.')
@minLength(1)
@maxLength(32)
param environmentName string

@description('Region of all resources. It must offer the GPU size, and you need quota there.')
param location string

@description('Host of the workers: AKS with a GPU pool, or Container Apps with serverless GPUs.')
@allowed(['aks', 'aca'])
param workerHost string = 'aks'

@description('Store of Durable Functions. Its state cannot be moved: choose before going live.')
@allowed(['scheduler', 'storage'])
param durableBackend string = 'scheduler'

@description('Plan of the Durable Task Scheduler. Consumption: up to 500 actions a second, billed by action.')
@allowed(['Consumption', 'Dedicated'])
param durableSku string = 'Consumption'

@description('Capacity units of the plan Dedicated: 2,000 actions a second each. 3 are highly available.')
@minValue(1)
@maxValue(3)
param durableCapacity int = 1

@description('Tier of Service Bus. Azure cannot change the tier of a namespace: choose before going live.')
@allowed(['Standard', 'Premium'])
param serviceBusSku string = 'Standard'

@description('Messaging units of the tier Premium.')
@allowed([1, 2, 4, 8, 16])
param serviceBusUnits int = 1

@description('Memory of a function instance in MB. It also decides its processor: 2048 has one core.')
@allowed([2048, 4096])
param gatewayMemoryMB int = 2048

@description('Maximum number of function instances for each function or group of functions.')
@minValue(1)
@maxValue(1000)
param gatewayMaxInstances int = 40

@description('Requests that one function instance handles at a time, if their bodies fit into its memory. A waiting request counts too.')
@minValue(1)
@maxValue(1000)
param gatewayConcurrency int = 50

@description('Python of the function instances.')
@allowed(['3.12', '3.13'])
param gatewayPython string = '3.12'

@description('How running instances are replaced: in batches that end their requests, or all at once.')
@allowed(['RollingUpdate', 'Recreate'])
param gatewayUpdates string = 'RollingUpdate'

@description('Further settings of the gateway: NAME=value, separated by semicolons.')
param gatewaySettings string = ''

@description('Further settings of the workers: NAME=value, separated by semicolons.')
param workerSettings string = ''

@description('Number of always ready function instances. 0 is cheapest, 1 avoids the cold start.')
@minValue(0)
@maxValue(20)
param alwaysReadyCount int = 1

@description('Spread storage, the gateway and the system pool over zones. Azure cannot change it later.')
param zoneRedundant bool = false

@description('Size of a node of the pools without GPUs. AKS needs at least 4 cores in the system pool.')
param systemNodeSize string = 'Standard_D4as_v5'

@description('Nodes of the system pool: 2 at least in production, 1 for a trial.')
@minValue(1)
@maxValue(10)
param systemNodeCount int = 2

@description('Nodes that always run for models without a GPU. With 0 their first job waits for a node.')
@minValue(0)
@maxValue(10)
param cpuMinCount int = 0

@description('Maximum number of nodes for models without a GPU.')
@minValue(1)
@maxValue(100)
param cpuMaxCount int = 4

@description('Weekday on which AKS upgrades the cluster and its nodes.')
@allowed(['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'])
param maintenanceDay string = 'Sunday'

@description('Start of the maintenance in UTC. It may take four hours.')
param maintenanceStart string = '02:00'

@description('Size of a GPU node. It decides the GPU, its memory and the price.')
param gpuNodeSize string = 'Standard_NC4as_T4_v3'

@description('How workers share a GPU: not at all, two by time slicing, or seven by MIG (A100 and later).')
@allowed(['none', 'timeslice', 'mig'])
param gpuSharing string = 'none'

@description('GPU nodes that always run. 0 costs nothing when idle, 1 avoids the start of a node.')
@minValue(0)
@maxValue(8)
param gpuMinCount int = 0

@description('Maximum number of GPU nodes in each of the two pools, spot and on-demand.')
@minValue(1)
@maxValue(100)
param gpuMaxCount int = 8

@description('Prefer spot GPU nodes. On-demand nodes are used if Azure has no spot nodes.')
param useSpot bool = true

@description('Hours for which a job and its results can be read after its longest deadline: RETENTION_HOURS.')
@minValue(1)
@maxValue(10000)
param retentionHours int = 72

@description('Queues for the replies of internal producers, separated by commas.')
param replyQueues string = ''

@description('Gigabytes of logs a day. What exceeds them is lost.')
@minValue(1)
param logLimitGB int = 5

@description('Share of requests that are traced, from 0 to 1.')
param traceSampling string = '0.1'

@description('Deploy the workers\' dashboard to Azure Monitor, with AKS only.')
param deployDashboard bool = true

@description('Put an API Management instance in front of the gateway.')
param deployApim bool = false

@description('Origins whose web pages may use the API, separated by commas, or *. The gateway\'s own pages always may.')
param corsOrigins string = ''

@description('Reach storage, Service Bus, registry and vault over private endpoints only.')
param privateNetwork bool = false

@description('Monthly budget in the subscription\'s currency. 0: no budget.')
@minValue(0)
param monthlyBudget int = 0

@description('First day of the budget, the first of a month: infra/scripts/check-tools.sh sets it.')
param budgetStart string = ''

// Without a default azd would ask for it, and then check-tools.sh again.
@description('Mail address for alerts and the budget. none: no mail. infra/scripts/check-tools.sh asks for it.')
param alertEmail string = ''

@description('Object id of the identity that deploys. It may upload weights and write the keys. azd sets it.')
param principalId string = ''

@description('Type of the identity that deploys: a person or a pipeline.')
@allowed(['User', 'ServicePrincipal'])
param principalType string = 'User'

@description('The workers\' image on Container Apps. infra/scripts/deploy-worker.sh sets it.')
param workerImage string = ''

@description('The image on Container Apps of models that need no GPU. infra/scripts/deploy-worker.sh sets it.')
param workerCpuImage string = ''

@description('Names of the existing node pools. infra/scripts/check-tools.sh sets it each time.')
param nodePools string = 'none'

@description('Kubernetes version of the cluster.')
param kubernetesVersion string = '1.36'

var token = take(uniqueString(subscription().id, environmentName, location), 10)
// Names that several modules need. They are known before anything exists, so that a preview
// (`azd provision --preview`) can evaluate all names and ids that are made from them.
var identityNames = {
  gateway: 'id-gateway-${token}'
  worker: 'id-worker-${token}'
  keda: 'id-keda-${token}'
}
var hostStorageName = 'sthost${token}'
var registryName = 'cr${token}'
var workspaceName = 'log-${token}'
var tags = { 'azd-env-name': environmentName, application: 'loosely' }
var mailAddress = alertEmail == 'none' ? '' : alertEmail
var usesAks = workerHost == 'aks'
// The name is part of the origin of the gateway's pages, which the storage must know before the gateway
// is created.
var gatewayName = 'func-${token}'
var gatewayOrigin = 'https://${gatewayName}.azurewebsites.net'
var apimOrigin = 'https://apim-${token}.azure-api.net'
var pageOrigins = deployApim ? [gatewayOrigin, apimOrigin] : [gatewayOrigin]

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identities 'modules/identities.bicep' = {
  scope: group
  params: { location: location, tags: tags, names: identityNames }
}

module monitoring 'modules/monitoring.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    workspaceName: workspaceName
    gatewayIdentityName: identityNames.gateway
    gatewayPrincipalId: identities.outputs.gateway.principalId
    workerIdentityName: identityNames.worker
    workerPrincipalId: identities.outputs.worker.principalId
    dailyQuotaGB: logLimitGB
    usesAks: usesAks
    deployDashboard: usesAks && deployDashboard
  }
}

module network 'modules/network.bicep' = {
  scope: group
  params: { location: location, tags: tags, token: token, privateNetwork: privateNetwork }
}

module storage 'modules/storage.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    privateNetwork: privateNetwork
    endpointSubnetId: network.outputs.endpointSubnetId
    blobZoneId: network.outputs.blobZoneId
    pageOrigins: pageOrigins
    corsOrigins: corsOrigins
    retentionHours: retentionHours
    zoneRedundant: zoneRedundant
    hostName: hostStorageName
    gatewayIdentityName: identityNames.gateway
    gatewayPrincipalId: identities.outputs.gateway.principalId
    workerIdentityName: identityNames.worker
    workerPrincipalId: identities.outputs.worker.principalId
    deployerPrincipalId: principalId
    deployerPrincipalType: principalType
  }
}

module servicebus 'modules/servicebus.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    privateNetwork: privateNetwork
    sku: serviceBusSku
    units: serviceBusUnits
    replyQueues: empty(replyQueues) ? [] : split(replace(replyQueues, ' ', ''), ',')
    endpointSubnetId: network.outputs.endpointSubnetId
    zoneId: network.outputs.servicebusZoneId
    gatewayIdentityName: identityNames.gateway
    gatewayPrincipalId: identities.outputs.gateway.principalId
    workerIdentityName: identityNames.worker
    workerPrincipalId: identities.outputs.worker.principalId
    kedaIdentityName: identityNames.keda
    kedaPrincipalId: identities.outputs.keda.principalId
  }
}

module durable 'modules/durable.bicep' = if (durableBackend == 'scheduler') {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    sku: durableSku
    capacity: durableCapacity
    retentionHours: retentionHours
    gatewayIdentityName: identityNames.gateway
    gatewayPrincipalId: identities.outputs.gateway.principalId
    deployerPrincipalId: principalId
    deployerPrincipalType: principalType
  }
}

module vault 'modules/vault.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    privateNetwork: privateNetwork
    endpointSubnetId: network.outputs.endpointSubnetId
    zoneId: network.outputs.vaultZoneId
    gatewayIdentityName: identityNames.gateway
    gatewayPrincipalId: identities.outputs.gateway.principalId
    deployerPrincipalId: principalId
    deployerPrincipalType: principalType
  }
}

module gateway 'modules/gateway.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    name: gatewayName
    corsOrigins: corsOrigins
    identityId: identities.outputs.gateway.id
    identityClientId: identities.outputs.gateway.clientId
    hostStorageName: hostStorageName
    packageContainer: storage.outputs.packageContainer
    payloadEndpoint: storage.outputs.payloadEndpoint
    servicebusHost: servicebus.outputs.host
    vaultUri: vault.outputs.uri
    insightsConnectionString: monitoring.outputs.insightsConnectionString
    durableEndpoint: durableBackend == 'scheduler' ? durable!.outputs.endpoint : ''
    alwaysReadyCount: alwaysReadyCount
    zoneRedundant: zoneRedundant
    pythonVersion: gatewayPython
    updateStrategy: gatewayUpdates
    otherSettings: gatewaySettings
    instanceMemoryMB: gatewayMemoryMB
    maximumInstanceCount: gatewayMaxInstances
    httpConcurrency: gatewayConcurrency
    traceSampling: traceSampling
    retentionHours: retentionHours
    subnetId: network.outputs.functionsSubnetId
  }
}

module registry 'modules/registry.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    name: registryName
    privateNetwork: privateNetwork
    endpointSubnetId: network.outputs.endpointSubnetId
    zoneId: network.outputs.registryZoneId
    deployerPrincipalId: principalId
    deployerPrincipalType: principalType
  }
}

module cluster 'modules/cluster.bicep' = if (usesAks) {
  scope: group
  dependsOn: [registry]
  params: {
    location: location
    tags: tags
    token: token
    kubernetesVersion: kubernetesVersion
    nodePools: split(nodePools, ',')
    subnetId: network.outputs.clusterSubnetId
    registryName: registryName
    workspaceId: monitoring.outputs.workspaceId
    metricsAccountId: monitoring.outputs.metricsAccountId
    workerIdentityName: identityNames.worker
    kedaIdentityName: identityNames.keda
    systemNodeSize: systemNodeSize
    systemNodeCount: systemNodeCount
    zoneRedundant: zoneRedundant
    cpuMinCount: cpuMinCount
    cpuMaxCount: cpuMaxCount
    maintenanceDay: maintenanceDay
    maintenanceStart: maintenanceStart
    gpuNodeSize: gpuNodeSize
    gpuSharing: gpuSharing
    gpuMinCount: gpuMinCount
    gpuMaxCount: gpuMaxCount
    useSpot: useSpot
    deployerPrincipalId: principalId
    deployerPrincipalType: principalType
  }
}

module workerApps 'modules/worker-aca.bicep' = if (!usesAks) {
  scope: group
  dependsOn: [registry]
  params: {
    location: location
    tags: tags
    token: token
    subnetId: network.outputs.appsSubnetId
    workspaceName: workspaceName
    registryName: registryName
    workerIdentityName: identityNames.worker
    workerPrincipalId: identities.outputs.worker.principalId
    kedaIdentityName: identityNames.keda
    servicebusHost: servicebus.outputs.host
    payloadEndpoint: storage.outputs.payloadEndpoint
    insightsConnectionString: monitoring.outputs.insightsConnectionString
    gatewayHost: gateway.outputs.host
    maxReplicas: gpuMaxCount
    minReplicas: gpuMinCount
    otherSettings: workerSettings
    image: workerImage
    cpuImage: workerCpuImage
  }
}

module apim 'modules/apim.bicep' = if (deployApim) {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    publisherEmail: mailAddress
    gatewayHost: gateway.outputs.host
  }
}

module alerts 'modules/alerts.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    email: mailAddress
    servicebusId: servicebus.outputs.id
    payloadStorageId: storage.outputs.payloadId
    hostStorageId: storage.outputs.hostId
    vaultId: vault.outputs.id
    insightsId: monitoring.outputs.insightsId
    workspaceId: monitoring.outputs.workspaceId
    metricsAccountId: monitoring.outputs.metricsAccountId
    gatewayUrl: gateway.outputs.baseUrl
    testsAvailability: alwaysReadyCount > 0
    usesAks: usesAks
  }
}

module budget 'modules/budget.bicep' = if (monthlyBudget > 0) {
  scope: group
  params: { amount: monthlyBudget, start: budgetStart, email: mailAddress, token: token }
}

// azd keeps these values in its environment, for infra/scripts and `azd env get-values`.
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_LOCATION string = location
output GATEWAY_NAME string = gateway.outputs.name
output GATEWAY_BASE_URL string = gateway.outputs.baseUrl
output API_URL string = deployApim ? apim!.outputs.url : gateway.outputs.baseUrl
output SERVICE_BUS_NAMESPACE string = servicebus.outputs.name
output SERVICE_BUS_HOST string = servicebus.outputs.host
output PAYLOAD_ACCOUNT string = storage.outputs.payloadName
output PAYLOAD_ENDPOINT string = storage.outputs.payloadEndpoint
output KEY_VAULT_NAME string = vault.outputs.name
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = registry.outputs.loginServer
output AZURE_AKS_CLUSTER_NAME string = usesAks ? cluster!.outputs.name : ''
output WORKER_HOST string = workerHost
output WORKER_CLIENT_ID string = identities.outputs.worker.clientId
output KEDA_CLIENT_ID string = identities.outputs.keda.clientId
output GPU_SHARING string = gpuSharing
output USE_SPOT bool = useSpot
output AZURE_TENANT_ID string = tenant().tenantId
output APPLICATIONINSIGHTS_CONNECTION_STRING string = monitoring.outputs.insightsConnectionString
