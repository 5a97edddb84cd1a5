// Three identities in place of secrets. What each may do stands beside the resource that it is for.
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

// KEDA: counts messages. That takes a right which workers must not have, hence its own identity.
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
