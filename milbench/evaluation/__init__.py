"""From stored predictions to tables: scores, leaderboard, ablation, comparison over cohorts, known answers."""
