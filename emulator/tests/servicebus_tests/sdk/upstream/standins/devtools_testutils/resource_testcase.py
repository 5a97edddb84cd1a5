"""Define the name of the argument in which a test receives its resource group."""

RESOURCE_GROUP_PARAM = "resource_group"
