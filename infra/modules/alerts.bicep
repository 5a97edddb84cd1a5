// The alerts. Each text says what to check first. docs/operations.md has more.
param location string
param tags object
param token string
param email string
param servicebusId string
param insightsId string

@description('Number of messages in a queue above which an alert is raised.')
param longQueue int = 500

@description('Seconds that the oldest job in a queue may wait.')
param oldestSeconds int = 600

@description('Seconds that 95 of 100 submits should stay below; they wait 30 s by default.')
param slowSeconds int = 45

@description('Jobs that may fail or expire in a quarter of an hour.')
param failedJobs int = 5

resource group 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: 'ag-${token}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'loosely'
    enabled: true
    emailReceivers: empty(email) ? [] : [{ name: 'operators', emailAddress: email, useCommonAlertSchema: true }]
  }
}

var metrics = [
  {
    name: 'queue-length'
    severity: 2
    text: 'A queue is long: are workers starting (GPU quota, spot capacity), or is the load too high?'
    metric: 'ActiveMessages'
    operator: 'GreaterThan'
    threshold: longQueue
    aggregation: 'Average'
    window: 'PT15M'
  }
  {
    name: 'dead-letters'
    severity: 2
    text: 'Dead letters pile up: the gateway reads them within minutes, so check whether it runs.'
    metric: 'DeadletteredMessages'
    operator: 'GreaterThan'
    threshold: 0
    // The whole window: an instance of the gateway may first have to start.
    aggregation: 'Minimum'
    window: 'PT5M'
  }
]

resource metricAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = [
  for each in metrics: {
    name: '${each.name}-${token}'
    location: 'global'
    tags: tags
    properties: {
      description: each.text
      severity: each.severity
      enabled: true
      scopes: [servicebusId]
      evaluationFrequency: 'PT1M'
      windowSize: each.window
      criteria: {
        'odata.type': 'Microsoft.Azure.Monitor.MultipleResourceMultipleMetricCriteria'
        allOf: [
          {
            criterionType: 'StaticThresholdCriterion'
            name: each.name
            metricNamespace: 'Microsoft.ServiceBus/namespaces'
            metricName: each.metric
            operator: each.operator
            threshold: each.threshold
            timeAggregation: each.aggregation
            dimensions: [{ name: 'EntityName', operator: 'Include', values: ['*'] }]
          }
        ]
      }
      autoMitigate: true
      actions: [{ actionGroupId: group.id }]
    }
  }
]

// Telemetry is sampled: itemCount is the number of entries that one entry represents.
var queries = [
  {
    name: 'oldest-message'
    severity: 2
    text: 'The oldest job of a queue waits too long: is any worker of that model ready?'
    // The gateway writes this line once a minute for each queue that is not empty.
    query: 'traces | where message startswith "queue " | parse message with "queue " queue ": oldest " seconds:real " s" * | where isnotnull(seconds) | summarize value = max(seconds) by queue'
    measure: 'value'
    dimension: 'queue'
    threshold: oldestSeconds
    window: 'PT5M'
  }
  {
    name: 'failed-jobs'
    severity: 2
    text: 'Jobs fail or expire: the code says whether inputs, the model or the capacity is to blame.'
    query: 'traces | where message startswith "job " and message has " ended as " | parse message with "job " * " ended as " status ": " code | where status in ("failed", "expired") and code !in ("invalid-input", "unsupported-media-type") | summarize value = sum(itemCount) by code'
    measure: 'value'
    dimension: 'code'
    threshold: failedJobs
    window: 'PT15M'
  }
  {
    name: 'given-up'
    severity: 2
    text: 'A message was dead-lettered: loosely dead-letters list shows why, redrive sends it again.'
    query: 'traces | where message has " was dead-lettered from " | summarize value = sum(itemCount)'
    measure: 'value'
    dimension: ''
    threshold: 0
    window: 'PT5M'
  }
  {
    name: 'slow-submits'
    severity: 3
    text: 'Submits are slow at the 95th percentile: look at queue waits first, then at inference times.'
    // All routes are one function, so the query filters by path, without the query string.
    query: 'requests | where tostring(split(url, "?")[0]) matches regex @"/v1/models/[^/]+/jobs$" | summarize value = percentile(duration, 95) / 1000'
    measure: 'value'
    dimension: ''
    threshold: slowSeconds
    window: 'PT15M'
  }
  {
    name: 'no-ready-worker'
    severity: 1
    text: 'Jobs wait, and no worker has replied for a quarter of an hour: see the pods, their nodes and /ready.'
    // Service Bus does not export queue lengths to logs. The gateway's log lines show in which minutes
    // jobs waited, and each reply is a request.
    query: 'let replies = toscalar(requests | where tostring(split(url, "?")[0]) matches regex @"/v1/jobs/[^/]+/reply$" | count); traces | where message startswith "queue " and message has ": oldest " | summarize value = dcount(bin(timestamp, 1m)) | where replies == 0'
    measure: 'value'
    dimension: ''
    threshold: 10
    window: 'PT15M'
  }
]

resource queryAlert 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for each in queries: {
    name: '${each.name}-${token}'
    location: location
    tags: tags
    properties: {
      displayName: 'Loosely: ${each.name}'
      description: each.text
      severity: each.severity
      enabled: true
      scopes: [insightsId]
      evaluationFrequency: 'PT5M'
      windowSize: each.window
      criteria: {
        allOf: [
          {
            query: each.query
            timeAggregation: 'Maximum'
            metricMeasureColumn: each.measure
            dimensions: empty(each.dimension) ? [] : [{ name: each.dimension, operator: 'Include', values: ['*'] }]
            operator: 'GreaterThan'
            threshold: each.threshold
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      autoMitigate: true
      actions: { actionGroups: [group.id] }
    }
  }
]
