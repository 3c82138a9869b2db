"""A leaderboard as text and figures: console, Markdown, CSV, figures."""
