"""Does training on the frames that questions choose give better answers than training on even ones? See `comparing`."""
