"""Training of the demo policy from nothing but the simulated blocks scene. docs/demo-policy.md."""
