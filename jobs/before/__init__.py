"""What comes before a run: files become seed rows, questions a recipe, licences a decision, people's labels truth."""
