"""HTTP around every endpoint: connections, middleware, bodies, the OpenAPI document."""
