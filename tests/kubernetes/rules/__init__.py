"""What manifests must hold. A rule takes the manifests of one file and yields its problems as text."""

from . import configuration, names, network, pods, security, values

RULES = [rule for module in (values, names, pods, network, security, configuration) for rule in module.RULES]
