"""The drawn world: seeded scenes of simple objects on a tiled floor, their pictures, questions about them."""
