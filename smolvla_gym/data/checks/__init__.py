"""What is wrong with a dataset, found mechanically: each module looks at one idea, and none gives quality scores."""
