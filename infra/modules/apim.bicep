// Optional API Management in front of the gateway, for quotas, a developer portal or Entra sign-in.
// The tier is Basic v2, because the Consumption tier lacks a rate limit by key.
import { Tags, Token } from 'types.bicep'

param location string
param tags Tags
param token Token
param gatewayHost string
param publisherEmail string

resource service 'Microsoft.ApiManagement/service@2024-05-01' = {
  name: 'apim-${token}'
  location: location
  tags: tags
  sku: { name: 'BasicV2', capacity: 1 }
  identity: { type: 'SystemAssigned' }
  properties: {
    publisherName: 'Loosely'
    publisherEmail: empty(publisherEmail) ? 'noreply@example.com' : publisherEmail
  }

  resource api 'apis' = {
    name: 'loosely'
    properties: {
      displayName: 'Loosely'
      path: ''
      protocols: ['https']
      serviceUrl: 'https://${gatewayHost}'
      // The gateway checks its own keys.
      subscriptionRequired: false
    }

    resource policy 'policies' = {
      name: 'policy'
      properties: { format: 'xml', value: loadTextContent('../apim-policy.xml') }
    }
  }
}

resource operation 'Microsoft.ApiManagement/service/apis/operations@2024-05-01' = [
  for method in ['GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS']: {
    parent: service::api
    name: toLower(method)
    properties: { displayName: method, method: method, urlTemplate: '/*' }
  }
]

output url string = service.properties.gatewayUrl
