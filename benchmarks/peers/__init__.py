"""What users would pick instead, each configured as its own documentation recommends where speed matters."""
