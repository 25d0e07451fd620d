"""What watches the controller and its fleet: metrics, health, and who is told when something goes wrong."""
