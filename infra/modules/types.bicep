// Types that several modules use.

@description('Tags of a resource.')
@export()
type Tags = { *: string }

@description('The part of all names that is unique to a deployment: uniqueString cut to ten characters.')
@minLength(10)
@maxLength(10)
@export()
type Token = string
