"""The tests of transformers' mixins that HICom's classes do not pass, under the reason why.

Names are those of class and test; a `*` stands for the parameters of a test.
"""

EXPECTED_FAILURES: dict[str, dict[str, tuple[str, ...]]] = {
    "model_cases": {
        "the mixin makes no inputs of the other modality: it renames pixel_values and lacks the frame counts": (
            "HiComImageTest.test_get_video_features_attentions",
            "HiComImageTest.test_get_video_features_hidden_states",
            "HiComImageTest.test_get_video_features_output_*",
            "HiComVideoTest.test_get_image_features_attentions",
            "HiComVideoTest.test_get_image_features_hidden_states",
            "HiComVideoTest.test_get_image_features_output_*",
        ),
        "the mixin cuts the packed frames to the number of rows; all of them pass with images": (
            "HiComVideoTest.test_eager_matches_sdpa_inference_*",
        ),
        "prompts of random ids hold placeholders, which HICom refuses where no pixels are given": (
            "*.test_model_rope_scaling_from_config_*",
        ),
        "SigLIP's class reads the key text_config of the folder, which is the LLM's; HICom calls it instruction_config": (
            "*.test_config",
        ),
        "the probe and the attention of SigLIP's pooling head are kept, as in its checkpoints, and never used": (
            "*.test_training_gradient_checkpointing",
            "*.test_training_gradient_checkpointing_use_reentrant_false",
            "*.test_training_gradient_checkpointing_use_reentrant_true",
        ),
        "the mixin is for models of text only: it reads config.vocab_size": ("*.test_training_overfit",),
    },
    "processor_cases": {
        "frames of all videos are packed on the first axis, with their counts in video_num_frames": (
            "HiComProcessorTest.test_apply_chat_template_decoded_video_0",
            "HiComProcessorTest.test_apply_chat_template_video_0",
            "HiComProcessorTest.test_apply_chat_template_video_1",
        ),
        "do_sample_frames=False together with fps is refused as a contradiction; transformers ignores fps then": (
            "HiComProcessorTest.test_apply_chat_template_video_frame_sampling",
        ),
        "do_sample_frames=False of the processor gives way to num_frames of a call; transformers ignores the latter": (
            "HiComVideoProcessorTest.test_call_sample_frames",
        ),
        "size, normalisation and rescaling belong to the weights: set at construction, and refused in calls": (
            "HiComProcessorTest.test_kwargs_overrides_default_subprocessor_kwargs_1_videos",
            "HiComProcessorTest.test_structured_kwargs_nested_from_dict_1_videos",
            "HiComProcessorTest.test_unstructured_kwargs_1_videos",
            "HiComProcessorTest.test_unstructured_kwargs_batched_1_videos",
            "HiComVideoProcessorTest.test_call_numpy_4_channels",
        ),
        "the vision tower takes resized, normalised RGB frames; turning that off is refused": (
            "HiComProcessorTest.test_save_load_pretrained_additional_features",
            "HiComVideoProcessorTest.test_video_processor_explicit_none_preserved",
        ),
        "a saved folder carries its code: auto_map appears with the first save": (
            "HiComProcessorTest.test_processor_from_and_save_pretrained",
            "HiComProcessorTest.test_processor_from_and_save_pretrained_as_nested_dict",
        ),
        "the mixin gives no image to a processor without the attribute image_processor": (
            "HiComProcessorTest.test_processor_with_multiple_inputs",
        ),
        "the mixin expects its own defaults of size and its own name of the class of arguments": (
            "HiComVideoProcessorTest.test_valid_kwargs_set",
            "HiComVideoProcessorTest.test_video_processor_from_dict_with_kwargs",
        ),
        "transformers' AutoVideoProcessor needs torchvision": (
            "HiComVideoProcessorTest.test_video_processor_save_load_with_autovideoprocessor",
        ),
    },
}
