// Three identities instead of secrets. The module of each resource assigns the roles on it.
import { Tags } from 'types.bicep'

param location string
param tags Tags

@description('Names of the identities.')
type Names = {
  gateway: string
  worker: string
  keda: string
}
param names Names

type Identity = {
  id: string
  clientId: string
  principalId: string
}

// The Function App: sends jobs, reads dead letters, owns payloads and its own host's storage.
resource gateway 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.gateway
  location: location
  tags: tags
}

// The workers: receive jobs, read and write payloads, read weights.
resource worker 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.worker
  location: location
  tags: tags
}

// KEDA: counts messages. This needs a right that workers must not have, so it has its own identity.
resource keda 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: names.keda
  location: location
  tags: tags
}

output gateway Identity = {
  id: gateway.id
  clientId: gateway.properties.clientId
  principalId: gateway.properties.principalId
}
output worker Identity = {
  id: worker.id
  clientId: worker.properties.clientId
  principalId: worker.properties.principalId
}
output keda Identity = {
  id: keda.id
  clientId: keda.properties.clientId
  principalId: keda.properties.principalId
}
