print("dtlsd")
