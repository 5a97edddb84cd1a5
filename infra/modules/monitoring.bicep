// Logs, traces and metrics: one workspace, Application Insights on it, Prometheus for the cluster.
param location string
param tags object
param token string
param usesAks bool

@description('The gateway, which sends telemetry with its identity. Instrumentation keys are turned off.')
param publisherPrincipalId string

// Referenced by name, because the namespace is created at the same time.
var servicebusId = resourceId('Microsoft.ServiceBus/namespaces', 'sb-${token}')

var roles = loadJsonContent('../roles.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' = {
  name: 'log-${token}'
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: 30
    // Limits the cost of a burst of logs.
    workspaceCapping: { dailyQuotaGb: 5 }
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

// The gateway may publish telemetry but not read it. Workers are scraped.
resource publisherRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, publisherPrincipalId, 'monitoringMetricsPublisher')
  scope: insights
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.monitoringMetricsPublisher)
    principalId: publisherPrincipalId
    principalType: 'ServicePrincipal'
  }
}

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

output workspaceId string = workspace.id
output workspaceName string = workspace.name
output insightsId string = insights.id
output insightsConnectionString string = insights.properties.ConnectionString
output metricsAccountId string = usesAks ? metrics.id : ''
