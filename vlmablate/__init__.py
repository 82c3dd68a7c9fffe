"""Does this design choice of a vision-language model matter, by how much, how sure are we, what did it cost?"""
