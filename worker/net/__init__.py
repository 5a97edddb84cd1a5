"""Network access: retry delays, HTTP requests to outside servers, and the blob storage client."""
