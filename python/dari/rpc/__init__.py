"""The wire, one module a service: message in, core call, message out."""
