"""Run episodes, record them as videos and summarise them."""
