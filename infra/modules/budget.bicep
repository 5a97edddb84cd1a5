// Sends mail at 50 % and 80 % of the budget, and when the forecast exceeds it.
import { Token } from 'types.bicep'

param amount int
param start string
param email string
param token Token

var contacts = { contactEmails: empty(email) ? [] : [email], contactRoles: ['Owner'] }
var actual = { enabled: true, operator: 'GreaterThanOrEqualTo', thresholdType: 'Actual' }

resource budget 'Microsoft.Consumption/budgets@2024-08-01' = {
  name: 'budget-${token}'
  properties: {
    category: 'Cost'
    amount: amount
    timeGrain: 'Monthly'
    timePeriod: { startDate: start }
    notifications: {
      half: union(contacts, actual, { threshold: 50 })
      fourfifths: union(contacts, actual, { threshold: 80 })
      forecast: union(contacts, actual, { threshold: 100, thresholdType: 'Forecasted' })
    }
  }
}
