"""The stages of the exported graph as small modules, composed around a trained network."""
