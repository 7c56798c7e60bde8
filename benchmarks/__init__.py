"""How fast this library is, beside the peers that users would pick instead and beside the physical floor."""
