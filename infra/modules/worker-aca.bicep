// Workers on Container Apps with serverless GPUs: billed by the second, without a cluster, one
// container per GPU. One app per model, scaled by the model's queues.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param subnetId string
param workspaceName string
param registryName string
param workerIdentityName string
param workerPrincipalId string
param kedaIdentityName string
param servicebusHost string
param payloadEndpoint string
param insightsConnectionString string
param gatewayHost string
param minReplicas int
param maxReplicas int

@description('Further settings: NAME=value, separated by semicolons. They replace those of this file.')
param otherSettings string

@description('The workers\' image. Apps are created only after infra/scripts/deploy-worker.sh has built it.')
param image string

@description('The image of models that need no GPU.')
param cpuImage string

var roles = loadJsonContent('../roles.json')
var models = loadJsonContent('../catalogue.json').models
var assignments = filter(split(otherSettings, ';'), each => contains(each, '='))
var others = toObject(assignments, each => trim(split(each, '=')[0]), each => join(skip(split(each, '='), 1), '='))
var gpuProfile = 'gpu-t4'
// Container Apps refuse a maximum below the minimum.
var gpuReplicas = max(minReplicas, maxReplicas)

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = { name: workspaceName }
resource registry 'Microsoft.ContainerRegistry/registries@2025-04-01' existing = { name: registryName }
resource worker 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = { name: workerIdentityName }
resource keda 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = { name: kedaIdentityName }

var common = {
  SERVICE_BUS__fullyQualifiedNamespace: servicebusHost
  PAYLOAD_STORAGE__blobServiceUri: payloadEndpoint
  REPLY_HOSTS: '${gatewayHost}:443'
  AZURE_CLIENT_ID: worker.properties.clientId
  HEALTH_HOST: '0.0.0.0'
  LOG_FORMAT: 'json'
  HF_HUB_OFFLINE: '1'
  WORKER_LOCK_SECONDS: '60'
  OTEL_TRACES_EXPORTER: 'azure_monitor_opentelemetry_exporter'
  APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${worker.properties.clientId};Authorization=AAD'
  APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL: 'true'
}

var own = [
  for model in models: {
    WORKER_MODELS: model.model
    WORKER_REQUIRE_DEVICE: model.device == 'gpu' ? 'cuda' : 'any'
    WORKER_DRAIN_SECONDS: string(min(model.graceSeconds, 600) - 15)
  }
]

resource environment 'Microsoft.App/managedEnvironments@2025-07-01' = {
  name: 'cae-${token}'
  location: location
  tags: tags
  properties: {
    appLogsConfiguration: { destination: 'azure-monitor' }
    vnetConfiguration: empty(subnetId) ? null : { infrastructureSubnetId: subnetId, internal: true }
    workloadProfiles: [
      { name: 'Consumption', workloadProfileType: 'Consumption' }
      { name: gpuProfile, workloadProfileType: 'Consumption-GPU-NC8as-T4' }
    ]
  }
}

resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'workspace'
  scope: environment
  properties: { workspaceId: workspace.id, logs: [{ categoryGroup: 'allLogs', enabled: true }] }
}

// The apps pull the workers' image with the workers' identity.
resource pullRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, workerIdentityName, 'acrPull')
  scope: registry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.acrPull)
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// Created only if the image exists: a deployment fails if an app does not answer its probes. By then
// keys.sh has also written the secret.
resource app 'Microsoft.App/containerApps@2025-07-01' = [
  for (model, index) in models: if (!empty(image)) {
    name: model.appName
    location: location
    tags: tags
    identity: {
      type: 'UserAssigned'
      userAssignedIdentities: { '${worker.id}': {}, '${keda.id}': {} }
    }
    dependsOn: [pullRole]
    properties: {
      environmentId: environment.id
      workloadProfileName: model.device == 'gpu' ? gpuProfile : 'Consumption'
      configuration: {
        activeRevisionsMode: 'Single'
        registries: [{ server: registry.properties.loginServer, identity: worker.id }]
      }
      template: {
        terminationGracePeriodSeconds: min(model.graceSeconds, 600)
        containers: [
          {
            name: 'worker'
            image: model.device == 'gpu' || empty(cpuImage) ? image : cpuImage
            // Everything that comes with the GPU, as in infra/prices.yaml.
            resources: model.device == 'gpu' ? { cpu: json('8'), memory: '56Gi' } : { cpu: json('1'), memory: '2Gi' }
            env: map(items(union(common, own[index], others)), each => { name: each.key, value: each.value })
            probes: [
              {
                type: 'Startup'
                httpGet: { path: '/live', port: 8081 }
                // Five minutes. The platform refuses more than ten failures.
                periodSeconds: 30
                timeoutSeconds: 5
                failureThreshold: 10
              }
              {
                type: 'Liveness'
                httpGet: { path: '/live', port: 8081 }
                periodSeconds: 10
                timeoutSeconds: 5
                failureThreshold: 6
              }
              {
                type: 'Readiness'
                httpGet: { path: '/ready', port: 8081 }
                periodSeconds: 5
                timeoutSeconds: 5
                failureThreshold: 2
              }
            ]
          }
        ]
        scale: {
          minReplicas: max(model.device == 'gpu' ? minReplicas : 0, model.minWorkers)
          maxReplicas: max(model.device == 'gpu' ? gpuReplicas : model.maxWorkers, model.minWorkers, model.warmWorkers)
          pollingInterval: 15
          cooldownPeriod: 300
          rules: [
            for rule in model.scaleRules: {
              name: rule.name
              custom: {
                type: rule.type
                identity: rule.type == 'cron' ? null : keda.id
                metadata: union(rule.metadata, rule.type == 'cron' ? {} : { namespace: split(servicebusHost, '.')[0] })
              }
            }
          ]
        }
      }
    }
  }
]
