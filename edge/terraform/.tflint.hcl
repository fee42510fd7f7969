# The bundled ruleset, all of it.
plugin "terraform" {
  enabled = true
  preset  = "all"
}
