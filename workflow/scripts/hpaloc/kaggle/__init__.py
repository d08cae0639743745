"""The data of Kaggle's competition: what the user has, what is fetched, and their index."""
