"""The HTTP side: TLS, the app, dispatch by the discovery document, filters and pages."""
