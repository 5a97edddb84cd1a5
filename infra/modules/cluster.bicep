// AKS for the workers: a system pool, and GPU pools that scale to zero.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param kubernetesVersion string

@description('Names of the existing pools. The autoscaler decides their numbers of nodes.')
param nodePools string[]
param subnetId string
param registryName string
param workspaceId string
param metricsAccountId string
param workerIdentityName string
param kedaIdentityName string
param systemNodeSize string
param systemNodeCount int
param zoneRedundant bool
param cpuMinCount int
param cpuMaxCount int
param maintenanceDay string
param maintenanceStart string
param gpuNodeSize string
param gpuSharing string
param gpuMinCount int
param gpuMaxCount int
param useSpot bool
param deployerPrincipalId string
param deployerPrincipalType string

@description('Kubernetes namespace and service account of the workers, as in infra/k8s/base.')
param workerServiceAccount string = 'loosely:worker'

var roles = loadJsonContent('../roles.json')
// From Kubernetes 1.37 on, AKS turns LocalDNS on where no mode is set. Its resolvers are on the node, at
// addresses that network policies must permit.
var localDnsMode = 'Disabled'
// What Container Insights collects. Metrics come from Prometheus instead.
var insightsStreams = ['Microsoft-ContainerLogV2', 'Microsoft-KubeEvents', 'Microsoft-KubePodInventory']

resource workerIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: workerIdentityName
}
resource kedaIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: kedaIdentityName
}

resource cluster 'Microsoft.ContainerService/managedClusters@2026-04-01' = {
  name: 'aks-${token}'
  location: location
  tags: tags
  sku: { name: 'Base', tier: 'Standard' }
  identity: { type: 'SystemAssigned' }
  properties: {
    kubernetesVersion: kubernetesVersion
    dnsPrefix: 'loosely-${token}'
    nodeResourceGroup: '${resourceGroup().name}-nodes'
    // The cluster issues no kubeconfig with a certificate: every user signs in with Entra.
    disableLocalAccounts: true
    enableRBAC: true
    aadProfile: { managed: true, enableAzureRBAC: true }
    oidcIssuerProfile: { enabled: true }
    securityProfile: {
      workloadIdentity: { enabled: true }
      imageCleaner: { enabled: true, intervalHours: 168 }
    }
    addonProfiles: {
      // Container Insights: the logs and events of the workers' namespace, by the rule below. The
      // agent signs in with its own identity.
      omsagent: {
        enabled: true
        config: { logAnalyticsWorkspaceResourceID: workspaceId, useAADAuth: 'true' }
      }
    }
    workloadAutoScalerProfile: { keda: { enabled: true } }
    // Spot before on-demand, by the priorities in infra/k8s/base/expander.yaml.
    autoScalerProfile: {
      expander: 'priority'
      'scale-down-unneeded-time': '10m'
      'scale-down-delay-after-add': '10m'
      'max-graceful-termination-sec': '900'
    }
    autoUpgradeProfile: { upgradeChannel: 'patch', nodeOSUpgradeChannel: 'NodeImage' }
    networkProfile: {
      networkPlugin: 'azure'
      networkPluginMode: 'overlay'
      networkDataplane: 'cilium'
      networkPolicy: 'cilium'
      loadBalancerSku: 'standard'
    }
    azureMonitorProfile: { metrics: { enabled: true } }
    agentPoolProfiles: [
      {
        name: 'system'
        mode: 'System'
        // AKS documents four cores and two nodes as the minimum for production.
        vmSize: systemNodeSize
        osType: 'Linux'
        osSKU: 'AzureLinux'
        enableAutoScaling: true
        count: contains(nodePools, 'system') ? null : systemNodeCount
        minCount: systemNodeCount
        maxCount: systemNodeCount + 2
        maxPods: 110
        availabilityZones: zoneRedundant ? ['1', '2', '3'] : null
        // Only what the cluster itself needs. Workers without a GPU have the pool below.
        nodeTaints: ['CriticalAddonsOnly=true:NoSchedule']
        vnetSubnetID: empty(subnetId) ? null : subnetId
        localDNSProfile: { mode: localDnsMode }
        upgradeSettings: { maxSurge: '1' }
      }
    ]
  }
}

// For workers of models without a GPU.
resource cpuPool 'Microsoft.ContainerService/managedClusters/agentPools@2026-04-01' = {
  parent: cluster
  name: 'cpu'
  properties: {
    mode: 'User'
    vmSize: systemNodeSize
    osType: 'Linux'
    osSKU: 'AzureLinux'
    enableAutoScaling: true
    count: contains(nodePools, 'cpu') ? null : cpuMinCount
    minCount: cpuMinCount
    maxCount: cpuMaxCount
    maxPods: 110
    availabilityZones: zoneRedundant ? ['1', '2', '3'] : null
    nodeLabels: { 'loosely.dev/pool': 'cpu' }
    vnetSubnetID: empty(subnetId) ? null : subnetId
    localDNSProfile: { mode: localDnsMode }
    upgradeSettings: { maxSurge: '0', maxUnavailable: '1' }
  }
}

// AKS upgrades the cluster and the images of its nodes in these hours of the week.
resource maintenance 'Microsoft.ContainerService/managedClusters/maintenanceConfigurations@2026-04-01' = [
  for name in ['aksManagedAutoUpgradeSchedule', 'aksManagedNodeOSUpgradeSchedule']: {
    parent: cluster
    name: name
    properties: {
      maintenanceWindow: {
        schedule: { weekly: { intervalWeeks: 1, dayOfWeek: maintenanceDay } }
        startTime: maintenanceStart
        durationHours: 4
      }
    }
  }
]

var spotPools = useSpot ? [{ name: 'gpuspot', priority: 'Spot', min: gpuMinCount }] : []
var onDemandPool = { name: 'gpu', priority: 'Regular', min: useSpot ? 0 : gpuMinCount }
var pools = concat(spotPools, [onDemandPool])
// NVIDIA's device plugin tolerates the first taint. AKS always puts the second on spot nodes.
var gpuTaints = ['nvidia.com/gpu=present:NoSchedule']
var spotTaints = ['kubernetes.azure.com/scalesetpriority=spot:NoSchedule']

resource pool 'Microsoft.ContainerService/managedClusters/agentPools@2026-04-01' = [
  for each in pools: {
    parent: cluster
    name: each.name
    properties: {
      mode: 'User'
      vmSize: gpuNodeSize
      osType: 'Linux'
      osSKU: 'Ubuntu'
      osDiskSizeGB: 128
      enableAutoScaling: true
      // AKS needs a number of nodes to create a pool. For an existing pool it treats a different
      // number as a manual scale operation.
      count: contains(nodePools, each.name) ? null : each.min
      minCount: each.min
      maxCount: gpuMaxCount
      maxPods: 50
      scaleSetPriority: each.priority
      scaleSetEvictionPolicy: each.priority == 'Spot' ? 'Delete' : null
      spotMaxPrice: each.priority == 'Spot' ? any(-1) : null
      scaleDownMode: 'Delete'
      nodeTaints: each.priority == 'Spot' ? concat(gpuTaints, spotTaints) : gpuTaints
      nodeLabels: { 'loosely.dev/pool': 'gpu' }
      gpuInstanceProfile: gpuSharing == 'mig' ? 'MIG1g' : null
      vnetSubnetID: empty(subnetId) ? null : subnetId
      localDNSProfile: { mode: localDnsMode }
      // An upgrade replaces the nodes one after the other, and needs no quota for a further GPU. Spot pools
      // have no such setting.
      upgradeSettings: each.priority == 'Spot' ? null : { maxSurge: '0', maxUnavailable: '1' }
    }
  }
]

module identityRoles 'cluster-roles.bicep' = {
  params: {
    token: token
    registryName: registryName
    nodesPrincipalId: cluster.properties.identityProfile.kubeletidentity.objectId
    clusterPrincipalId: cluster.identity.principalId
    joinsNetwork: !empty(subnetId)
  }
}

// The identity that deploys applies the manifests.
resource deployerRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerPrincipalId)) {
  name: guid(cluster.id, deployerPrincipalId, 'aksRbacClusterAdmin')
  scope: cluster
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.aksRbacClusterAdmin)
    principalId: deployerPrincipalId
    principalType: deployerPrincipalType
  }
}

// Pods of exactly these service accounts may use the identities.
resource workerFederation 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2024-11-30' = {
  parent: workerIdentity
  name: 'aks-worker'
  properties: {
    issuer: cluster.properties.oidcIssuerProfile.issuerURL
    subject: 'system:serviceaccount:${workerServiceAccount}'
    audiences: ['api://AzureADTokenExchange']
  }
}

resource kedaFederation 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2024-11-30' = {
  parent: kedaIdentity
  name: 'aks-keda-operator'
  properties: {
    issuer: cluster.properties.oidcIssuerProfile.issuerURL
    subject: 'system:serviceaccount:kube-system:keda-operator'
    audiences: ['api://AzureADTokenExchange']
  }
}

resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'workspace'
  scope: cluster
  properties: {
    workspaceId: workspaceId
    logs: [for category in ['cluster-autoscaler', 'guard']: { category: category, enabled: true }]
  }
}

// The endpoint from which the cluster's agents read what to scrape, and to which they send it.
resource collection 'Microsoft.Insights/dataCollectionEndpoints@2024-03-11' = {
  name: 'dce-prom-${token}'
  location: location
  tags: tags
  kind: 'Linux'
  properties: {}
}

resource scraping 'Microsoft.Insights/dataCollectionRules@2024-03-11' = {
  name: 'dcr-prom-${token}'
  location: location
  tags: tags
  kind: 'Linux'
  properties: {
    dataCollectionEndpointId: collection.id
    dataSources: { prometheusForwarder: [{ name: 'prometheus', streams: ['Microsoft-PrometheusMetrics'] }] }
    destinations: { monitoringAccounts: [{ name: 'prometheus', accountResourceId: metricsAccountId }] }
    dataFlows: [{ streams: ['Microsoft-PrometheusMetrics'], destinations: ['prometheus'] }]
  }
}

resource scraped 'Microsoft.Insights/dataCollectionRuleAssociations@2024-03-11' = {
  name: 'prometheus'
  scope: cluster
  properties: { dataCollectionRuleId: scraping.id }
}

// The logs and events of one namespace: those of the other pods would cost more than those of the workers.
resource insightsRule 'Microsoft.Insights/dataCollectionRules@2024-03-11' = {
  name: 'dcr-logs-${token}'
  location: location
  tags: tags
  kind: 'Linux'
  properties: {
    dataSources: {
      extensions: [
        {
          name: 'ContainerInsightsExtension'
          extensionName: 'ContainerInsights'
          streams: insightsStreams
          extensionSettings: {
            dataCollectionSettings: {
              interval: '1m'
              namespaceFilteringMode: 'Include'
              namespaces: [split(workerServiceAccount, ':')[0]]
              enableContainerLogV2: true
            }
          }
        }
      ]
    }
    destinations: { logAnalytics: [{ name: 'workspace', workspaceResourceId: workspaceId }] }
    dataFlows: [{ streams: insightsStreams, destinations: ['workspace'] }]
  }
}

resource insightsAssociation 'Microsoft.Insights/dataCollectionRuleAssociations@2024-03-11' = {
  name: 'ContainerInsightsExtension'
  scope: cluster
  properties: { dataCollectionRuleId: insightsRule.id }
}

output name string = cluster.name
