"""What a cluster is deployed with."""
