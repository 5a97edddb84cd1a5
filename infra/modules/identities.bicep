// Three identities instead of secrets. The module of each resource assigns the roles on it.
param location string
param tags object
param token string

type Identity = {
  id: string
  name: string
  clientId: string
  principalId: string
}

// The Function App: sends jobs, reads dead letters, owns payloads and its own host's storage.
resource gateway 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-gateway-${token}'
  location: location
  tags: tags
}

// The workers: receive jobs, read and write payloads, read weights.
resource worker 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-worker-${token}'
  location: location
  tags: tags
}

// KEDA: counts messages. This needs a right that workers must not have, so it has its own identity.
resource keda 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-keda-${token}'
  location: location
  tags: tags
}

output gateway Identity = {
  id: gateway.id
  name: gateway.name
  clientId: gateway.properties.clientId
  principalId: gateway.properties.principalId
}
output worker Identity = {
  id: worker.id
  name: worker.name
  clientId: worker.properties.clientId
  principalId: worker.properties.principalId
}
output keda Identity = {
  id: keda.id
  name: keda.name
  clientId: keda.properties.clientId
  principalId: keda.properties.principalId
}
