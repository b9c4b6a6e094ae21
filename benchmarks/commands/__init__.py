"""Programs that time whole commands of users, beside the peers that these would take instead."""
