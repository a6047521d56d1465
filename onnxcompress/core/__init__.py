"""Values every other part speaks in: errors, model, encoding, plan, task, run, registry."""
