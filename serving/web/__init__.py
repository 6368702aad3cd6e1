"""The HTTP edge over whatever answers behind it: routes, keys, limits, problem documents, the OpenAPI document."""
