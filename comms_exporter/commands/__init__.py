"""Commands that read an account once and print what they found; they know neither the settings nor the terminal."""
