// Logs, traces and metrics: one workspace, Application Insights on it, Prometheus for the cluster.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param workspaceName string
param dailyQuotaGB int
param usesAks bool
param deployDashboard bool

// Gateway and workers send telemetry with their identities. Instrumentation keys are turned off.
param gatewayIdentityName string
param gatewayPrincipalId string
param workerIdentityName string
param workerPrincipalId string

// Referenced by name, because the namespace is created at the same time.
var servicebusId = resourceId('Microsoft.ServiceBus/namespaces', 'sb-${token}')

var roles = loadJsonContent('../roles.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' = {
  name: workspaceName
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: 30
    // Limits the cost of a burst of logs.
    workspaceCapping: { dailyQuotaGb: dailyQuotaGB }
    features: { disableLocalAuth: true }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-${token}'
  location: location
  tags: tags
  kind: 'web'
  properties: { Application_Type: 'web', WorkspaceResourceId: workspace.id, DisableLocalAuth: true }
}

// Gateway and workers may publish telemetry but not read it. The workers' metrics are scraped.
resource publisherRoles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for identity in [
    { name: gatewayIdentityName, principalId: gatewayPrincipalId }
    { name: workerIdentityName, principalId: workerPrincipalId }
  ]: {
    name: guid(insights.id, identity.name, 'monitoringMetricsPublisher')
    scope: insights
    properties: {
      roleDefinitionId: subscriptionResourceId(
        'Microsoft.Authorization/roleDefinitions',
        roles.monitoringMetricsPublisher
      )
      principalId: identity.principalId
      principalType: 'ServicePrincipal'
    }
  }
]

// Prometheus. The cluster scrapes the workers' /metrics into it.
resource metrics 'Microsoft.Monitor/accounts@2025-10-03' = if (usesAks) {
  name: 'prom-${token}'
  location: location
  tags: tags
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, 'loosely-workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Loosely'
    category: 'workbook'
    sourceId: insights.id
    serializedData: replace(loadTextContent('../workbook.json'), 'SERVICE_BUS_ID', servicebusId)
  }
}

// An ARM template, because the offline type data does not have dashboards.
module dashboard 'dashboard.json' = if (deployDashboard) {
  params: {
    location: location
    tags: tags
    name: 'loosely-${token}'
    definition: loadTextContent('../dashboards/worker.json')
  }
}

output workspaceId string = workspace.id
output insightsId string = insights.id
output insightsConnectionString string = insights.properties.ConnectionString
output metricsAccountId string = usesAks ? metrics.id : ''
