"""What guards a training: steps that are not finite are skipped, and their batch is kept."""
