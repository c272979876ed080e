"""The sources of the objectives: arXiv identifier or anthology key -> BibTeX, for model cards and papers."""

SLKD, SKD, SUBKD, MGKD = "2004.03846", "2010.05010", "2203.04825", "2021.naacl-main.454"
GATE = "2404.14827"

BIBTEX = {
    SLKD: """@inproceedings{wang-etal-2020-structure,
  title     = {Structure-Level Knowledge Distillation For Multilingual Sequence Labeling},
  author    = {Wang, Xinyu and Jiang, Yong and Bach, Nguyen and Wang, Tao and Huang, Fei and Tu, Kewei},
  booktitle = {Proceedings of ACL},
  year      = {2020},
  url       = {https://arxiv.org/abs/2004.03846},
}""",
    SKD: """@inproceedings{wang-etal-2021-structural,
  title     = {Structural Knowledge Distillation: Tractably Distilling Information for Structured Predictor},
  author    = {Wang, Xinyu and Jiang, Yong and Yan, Zhaohui and Jia, Zixia and Bach, Nguyen and Wang, Tao and
               Huang, Zhongqiang and Huang, Fei and Tu, Kewei},
  booktitle = {Proceedings of ACL-IJCNLP},
  year      = {2021},
  url       = {https://arxiv.org/abs/2010.05010},
}""",
    SUBKD: """@misc{lin-etal-2022-efficient,
  title  = {Efficient Sub-structured Knowledge Distillation},
  author = {Lin, Wenye and Li, Yangming and Liu, Lemao and Shi, Shuming and Zheng, Hai-Tao},
  year   = {2022},
  url    = {https://arxiv.org/abs/2203.04825},
}""",
    MGKD: """@inproceedings{zhou-etal-2021-multi,
  title     = {Multi-Grained Knowledge Distillation for Named Entity Recognition},
  author    = {Zhou, Xuan and Zhang, Xiao and Tao, Chenyang and Chen, Junya and Xu, Bing and Wang, Wei and Xiao, Jing},
  booktitle = {Proceedings of NAACL-HLT},
  year      = {2021},
  url       = {https://aclanthology.org/2021.naacl-main.454},
}""",
    GATE: """@misc{wei-etal-2024-sentence,
  title  = {Sentence-Level or Token-Level? A Comprehensive Study on Knowledge Distillation},
  author = {Wei, Jingxuan and Sun, Linzhuang and Leng, Yichong and Tan, Xu and Yu, Bihui and Guo, Ruifeng},
  year   = {2024},
  url    = {https://arxiv.org/abs/2404.14827},
}""",
}
