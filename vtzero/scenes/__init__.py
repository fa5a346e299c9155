"""The drawn world: seeded scenes of simple objects on a tiled floor, pictures of them, and questions about them."""
