// The alerts. Each text says what to check first. docs/how-to/operations.md has more.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param email string
param servicebusId string
param payloadStorageId string
param hostStorageId string
param vaultId string
param insightsId string
param workspaceId string
param metricsAccountId string

@description('The gateway\'s address, for the availability test.')
param gatewayUrl string

@description('Whether to call the gateway every five minutes. Not if it scales to zero: the calls would keep it running.')
param testsAvailability bool
param usesAks bool

@description('Number of messages in a queue above which an alert is raised. A batch has up to 1,000 in its queue.')
param longQueue int = 1000

@description('Seconds that the oldest job in a queue may wait.')
param oldestSeconds int = 600

@description('Seconds that 95 of 100 submits should stay below; they wait 30 s by default.')
param slowSeconds int = 45

@description('Jobs that may fail or expire in a quarter of an hour.')
param failedJobs int = 5

@description('Percentage of requests to storage and vault that should succeed in a quarter of an hour.')
param leastAvailability int = 99

@description('Responses with a server error that are accepted in a quarter of an hour.')
param gatewayErrors int = 5

// A queue that is full refuses messages.
var fullQueueBytes = loadJsonContent('../catalogue.json').queues[0].maxSizeInMegabytes * 1024 * 1024 * 8 / 10

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
  {
    name: 'queue-size'
    severity: 1
    text: 'A queue holds 80 % of its maximum size; a full queue refuses jobs. Drain it, or raise its size.'
    metric: 'Size'
    operator: 'GreaterThan'
    threshold: fullQueueBytes
    aggregation: 'Average'
    window: 'PT15M'
  }
  {
    name: 'service-bus-throttled'
    severity: 2
    text: 'Service Bus refuses operations of the namespace: locks may be lost. Spread the load, or use Premium.'
    metric: 'ThrottledRequests'
    operator: 'GreaterThan'
    threshold: 10
    aggregation: 'Total'
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

// Services that the gateway and the workers cannot do without.
var services = [
  {
    name: 'payload-storage'
    id: payloadStorageId
    namespace: 'Microsoft.Storage/storageAccounts'
    text: 'Requests to the storage of payloads fail: see the status of Azure, and the account\'s metrics by error.'
  }
  {
    name: 'host-storage'
    id: hostStorageId
    namespace: 'Microsoft.Storage/storageAccounts'
    text: 'Requests to the storage of the Functions host fail: timers and instances may stop.'
  }
  {
    name: 'key-vault'
    id: vaultId
    namespace: 'Microsoft.KeyVault/vaults'
    text: 'Requests to the vault fail: new instances of the gateway cannot read their keys.'
  }
]

resource serviceAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = [
  for each in services: {
    name: '${each.name}-${token}'
    location: 'global'
    tags: tags
    properties: {
      description: each.text
      severity: 1
      enabled: true
      scopes: [each.id]
      evaluationFrequency: 'PT5M'
      windowSize: 'PT15M'
      criteria: {
        'odata.type': 'Microsoft.Azure.Monitor.MultipleResourceMultipleMetricCriteria'
        allOf: [
          {
            criterionType: 'StaticThresholdCriterion'
            name: each.name
            metricNamespace: each.namespace
            metricName: 'Availability'
            operator: 'LessThan'
            threshold: leastAvailability
            timeAggregation: 'Average'
          }
        ]
      }
      autoMitigate: true
      actions: [{ actionGroupId: group.id }]
    }
  }
]

// Telemetry is sampled: itemCount is the number of entries that one entry represents. Gateway and workers
// also export spans of their own, which have other role names. A query of requests leaves them out.
var queries = [
  {
    name: 'gateway-silent'
    severity: 0
    text: 'The gateway has sent no telemetry for a quarter of an hour, although its timer runs each minute: it is dead.'
    // Over two days, so that an app that has never sent anything raises no alert: it is not deployed yet.
    query: 'union requests, traces | where cloud_RoleName !in ("loosely-gateway", "loosely-worker") | summarize latest = max(timestamp) | summarize value = countif(latest < ago(15m))'
    measure: 'value'
    dimension: ''
    threshold: 0
    window: 'PT15M'
    range: 'P2D'
  }
  {
    name: 'gateway-errors'
    severity: 1
    text: 'The gateway responds with server errors: see the exceptions, then /v1/health/ready.'
    // 503 with saturated or overloaded and 504 with expired are intended, and have alerts of their own.
    // The host logs a caller's disconnect as a failed request with this exception.
    query: 'requests | where cloud_RoleName !in ("loosely-gateway", "loosely-worker") | where toint(resultCode) in (500, 502) | join kind=leftanti (exceptions | where tostring(details) has "RequestCanceled") on operation_Id | summarize value = sum(itemCount) by resultCode'
    measure: 'value'
    dimension: 'resultCode'
    threshold: gatewayErrors
    window: 'PT15M'
  }
  {
    name: 'scheduler-throttled'
    severity: 2
    text: 'The Durable Task Scheduler refuses calls: its plan permits no more actions per second.'
    query: 'union traces, exceptions | where strcat(message, outerMessage) has "ResourceExhausted" | summarize value = sum(itemCount)'
    measure: 'value'
    dimension: ''
    threshold: 10
    window: 'PT15M'
  }
  {
    name: 'oldest-message'
    severity: 2
    text: 'The oldest job of a queue waits too long: is any worker of that model ready?'
    // The gateway writes this line once a minute for each queue that is not empty. Lines of batches and other jobs
    // of low priority may wait for normal jobs.
    query: 'traces | where message startswith "queue " | parse message with "queue " queue ": the oldest message is " seconds:real " s" * | where isnotnull(seconds) and queue !endswith "-low" | summarize value = max(seconds) by queue'
    measure: 'value'
    dimension: 'queue'
    threshold: oldestSeconds
    window: 'PT5M'
  }
  {
    name: 'failed-jobs'
    severity: 2
    text: 'Jobs fail or expire: the code says whether inputs, the model or the capacity is to blame.'
    query: 'traces | where message startswith "job " and message has " ended as " | parse message with "job " * " of " model " ended as " status ": " code | where status in ("failed", "expired") and code !in ("invalid-input", "unsupported-media-type") | summarize value = sum(itemCount) by reason = strcat(model, " ", code)'
    measure: 'value'
    dimension: 'reason'
    threshold: failedJobs
    window: 'PT15M'
  }
  {
    name: 'given-up'
    severity: 2
    text: 'A message was dead-lettered: loosely dead-letters list shows why, redrive sends it again.'
    query: 'traces | where message has " was dead-lettered from " | parse message with "job " * " was dead-lettered from " queue " " * | summarize value = sum(itemCount) by queue'
    measure: 'value'
    dimension: 'queue'
    threshold: 0
    window: 'PT5M'
  }
  {
    name: 'slow-submits'
    severity: 3
    text: 'Submits are slow at the 95th percentile: look at queue waits first, then at inference times.'
    // All routes are one function, so the query filters by path, without the query string.
    query: 'requests | where cloud_RoleName !in ("loosely-gateway", "loosely-worker") | where tostring(split(url, "?")[0]) matches regex @"/v1/models/[^/]+/jobs$" | extend model = extract(@"/models/([^/]+)/jobs", 1, url) | summarize value = percentile(duration, 95) / 1000 by model'
    measure: 'value'
    dimension: 'model'
    threshold: slowSeconds
    window: 'PT15M'
  }
  {
    name: 'no-ready-worker'
    severity: 1
    text: 'No worker takes jobs from this queue: see the pods of the model, their nodes and /ready.'
    // Each minute the gateway logs the age of the oldest message. If the age grows as fast as the time
    // passes, the same message stays the oldest. A job that runs for longer looks the same.
    query: 'traces | where message startswith "queue " | parse message with "queue " queue ": the oldest message is " seconds:real " s" * | where isnotnull(seconds) | summarize value = max(seconds) - min(seconds) by queue'
    measure: 'value'
    dimension: 'queue'
    threshold: 780
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
      overrideQueryTimeRange: each.?range
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

// From the logs of the cluster or of Container Apps. `Count` is the number of times that an event has occurred
// so far, so a window has had the difference. The tables exist only when the first log arrives, so
// the queries are not checked when the rules are created.
var logQueries = [
  {
    name: 'log-limit'
    severity: 1
    text: 'The daily limit of logs is reached: until midnight UTC no log arrives, and no alert that reads logs is raised.'
    query: '_LogOperation | where Category =~ "Ingestion" and Detail has "OverQuota" | summarize value = countif(isnotempty(Detail)) by model = Category'
    threshold: 0
    window: 'PT15M'
  }
]
var clusterQueries = [
  {
    name: 'spot-evictions'
    severity: 3
    text: 'Azure takes spot nodes away often: jobs run again and wait. Use another size or region, or USE_SPOT=false.'
    // The worker logs it for each of its nodes.
    query: 'ContainerLogV2 | where PodNamespace == "loosely" | extend text = tostring(LogMessage.message) | where text startswith "Azure has scheduled the event Preempt" | summarize value = countif(isnotempty(text)) by model = extract("worker-(.+)-[^-]+-[^-]+$", 1, PodName)'
    threshold: 3
    window: 'PT1H'
  }
  {
    name: 'pods-pending'
    severity: 2
    text: 'Pods wait for a node: is there GPU quota and capacity, and is GPU_MAX_COUNT reached?'
    query: 'KubePodInventory | where Namespace == "loosely" and PodStatus == "Pending" | extend model = extract("worker-(.+)-[^-]+-[^-]+$", 1, Name) | summarize value = dcount(bin(TimeGenerated, 1m)) by model'
    threshold: 10
    window: 'PT15M'
  }
  {
    name: 'keda-errors'
    severity: 2
    text: 'KEDA cannot read a queue or scale a deployment: see the events of the ScaledObject.'
    query: 'KubeEvents | where Namespace == "loosely" and Reason in ("KEDAScalerFailed", "ScaledObjectCheckFailed", "KEDAScaleTargetActivationFailed") | summarize events = max(Count) - min(Count) + 1 by Name, Reason, Message, FirstSeen | summarize value = sum(events) by model = Name'
    threshold: 5
    window: 'PT15M'
  }
]
var appsQueries = [
  {
    name: 'keda-errors'
    severity: 2
    text: 'Container Apps cannot read a queue or start a replica: see the system log of the app.'
    query: 'ContainerAppSystemLogs | where Reason in ("KEDAScalerFailed", "ScaledObjectCheckFailed", "KEDAScaleTargetActivationFailed") | summarize events = max(Count) - min(Count) + 1 by ContainerAppName, RevisionName, Reason, Log | summarize value = sum(events) by model = ContainerAppName'
    threshold: 5
    window: 'PT15M'
  }
]

resource workspaceAlert 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for each in concat(logQueries, usesAks ? clusterQueries : appsQueries): {
    name: '${each.name}-${token}'
    location: location
    tags: tags
    properties: {
      displayName: 'Loosely: ${each.name}'
      description: each.text
      severity: each.severity
      enabled: true
      scopes: [workspaceId]
      skipQueryValidation: true
      evaluationFrequency: 'PT5M'
      windowSize: each.window
      criteria: {
        allOf: [
          {
            query: each.query
            timeAggregation: 'Maximum'
            metricMeasureColumn: 'value'
            dimensions: [{ name: 'model', operator: 'Include', values: ['*'] }]
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

// From the metrics of the workers and of the GPUs, which only the cluster's Prometheus scrapes.
var workerRules = [
  {
    name: 'lock-losses'
    severity: 2
    text: 'Workers lose message locks: the machine stalls, or Service Bus refuses operations.'
    expression: 'sum by (model) (increase(loosely_worker_lock_losses_total[15m])) > 0'
  }
  {
    name: 'worker-faults'
    severity: 2
    text: 'Jobs fail by a defect of the worker: see its log by job_id.'
    expression: 'sum by (model) (increase(loosely_worker_settled_total{outcome="worker-fault"}[15m])) > 0'
  }
  {
    name: 'model-set-aside'
    severity: 1
    text: 'A worker cannot load its model, or cannot use the GPU: see the reason in /ready and in its log.'
    expression: 'max by (model) (loosely_worker_model_set_aside) > 0'
  }
  {
    name: 'gpu-errors'
    severity: 2
    text: 'A GPU reports an error of NVIDIA\'s driver (XID): drain the node, and let it be replaced.'
    // The last error of each GPU. Errors 13, 31, 43 and 45 are faults of a program, not of the GPU.
    expression: 'max by (Hostname, gpu) (DCGM_FI_DEV_XID_ERRORS > 0 != 13 != 31 != 43 != 45)'
  }
]

resource workerAlerts 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = if (usesAks) {
  name: 'workers-${token}'
  location: location
  tags: tags
  properties: {
    description: 'Loosely: the workers and their GPUs'
    scopes: [metricsAccountId]
    interval: 'PT1M'
    rules: [
      for each in workerRules: {
        alert: each.name
        expression: each.expression
        for: 'PT1M'
        severity: each.severity
        annotations: { description: each.text }
        actions: [{ actionGroupId: group.id }]
        resolveConfiguration: { autoResolved: true, timeToResolve: 'PT15M' }
      }
    ]
  }
}

// An ARM template, because the offline type data does not have web tests.
module availability 'availability.json' = if (testsAvailability) {
  params: {
    location: location
    tags: tags
    token: token
    insightsId: insightsId
    url: '${gatewayUrl}/v1/health/ready'
    actionGroupId: group.id
  }
}
